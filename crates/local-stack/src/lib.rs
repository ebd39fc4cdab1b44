//! A real Postgres and a real Kafka on this machine without containers, for a laptop, tests and
//! benchmarks.
//!
//! One stack per workspace, shared by all who need one: tests take a database
//! ([`testing::TestDatabase`]) and topics ([`testing::unique_topic`]) each, so they run in
//! parallel. Tests of faults run a stack of their own ([`StackDir::new`]) and stop, kill and start
//! its servers. Nothing in here may know what the services do; of the workspace it uses the
//! migrations alone.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod artifacts;
mod cluster;
mod error;
mod files;
mod home;
mod java;
mod kafka;
mod ports;
mod postgres;
mod processes;
mod readiness;
mod stack;
mod stack_dir;
pub mod testing;

pub use cluster::KafkaCluster;
pub use error::StackError;
pub use stack::{Server, Stack};
pub use stack_dir::StackDir;

/// Starts the default stack, or finds it running; returns when both servers answer.
///
/// # Errors
/// See [`StackError`]; what was started before the failure is ended again.
pub fn up() -> Result<Stack, StackError> {
    StackDir::default().up()
}

/// Ends the default stack and removes its data; `false` if nothing of it ran.
///
/// # Errors
/// See [`StackError`].
pub fn down() -> Result<bool, StackError> {
    StackDir::default().down()
}

/// The default stack, if both of its servers run and answer.
///
/// # Errors
/// See [`StackError`].
pub fn status() -> Result<Option<Stack>, StackError> {
    StackDir::default().status()
}
