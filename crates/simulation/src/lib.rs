//! A world in memory in which the services' own code runs, so that one seed decides everything.
//!
//! [`database`] is Postgres as the statements of `storage` see it. Nothing in here does I/O, reads a
//! clock or waits.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod database;
