//! One transaction: what a batch does, and what decides it.
//!
//! [`transaction`] runs it. Before it, records are decoded ([`decode`]); in it, they are sorted
//! ([`batch`]), those that were applied before are left out ([`dedup`]), handlers have their effects
//! ([`effects`]), and what cannot be applied is announced ([`dead_letter_event`]).

pub(crate) mod batch;
pub(crate) mod dead_letter_event;
pub mod decode;
mod dedup;
pub(crate) mod effects;
pub mod error;
pub mod transaction;
