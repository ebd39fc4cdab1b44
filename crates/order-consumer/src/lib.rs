//! The consumer: applies each event's effect exactly once, whatever is delivered again.
//!
//! Per owned partition: fetch, decode and validate, one fenced transaction, next. Everything a
//! batch does (inbox, effects, dead letters, offset) is in that one transaction of [`apply`]; it
//! commits only if the partition is still ours and the group stands where the batch begins.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod apply;
mod assignment;
mod batch;
pub mod cli;
mod commands;
pub mod decode;
pub mod effects;
pub mod handlers;
mod in_hand;
mod membership;
mod met;
pub mod metrics;
mod obituary;
mod observe;
pub mod partition;
pub mod place;
mod prefetch;
pub mod redrive;
pub mod retention;
pub mod settings;
pub mod standing;
mod trace;
pub mod wiring;

pub use effects::Effects;
pub use handlers::Handler;
pub use metrics::Metrics;
pub use settings::Settings;
