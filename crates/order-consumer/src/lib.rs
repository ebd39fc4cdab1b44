//! The consumer: applies each event's effect exactly once, whatever is delivered again.
//!
//! Per owned partition: fetch, decode and validate, one fenced transaction, next. Everything a
//! batch does (inbox, effects, dead letters, offset) is in that one transaction of [`apply`]; it
//! commits only if the partition is still ours and the group stands where the batch begins.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapters;
pub mod app;
pub mod apply;
pub mod assembly;
mod assignment;
pub mod cli;
mod commands;
pub mod handlers;
pub mod health;
mod membership;
pub mod metrics;
pub mod partition;
pub mod ports;
pub mod redrive;
pub mod registry;
pub mod retention;
pub mod settings;
mod topic;
mod trace;

pub use assembly::Assembly;
pub use handlers::Handler;
pub use health::Health;
pub use metrics::Metrics;
pub use registry::Registry;
pub use settings::Settings;

/// Of the process, as its logs and sessions show it.
const NAME: &str = "order-consumer";
