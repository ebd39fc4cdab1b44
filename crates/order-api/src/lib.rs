//! The order API: HTTP in, one transaction out.
//!
//! An order and its `OrderCreated` event are committed together or not at all; nothing here knows
//! of Kafka. The way of a request: [`http`] parses it, [`store`] commits it on the main runtime,
//! [`wake_up`] hints at it, [`http`] answers. [`application`] puts the parts together.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod application;
pub mod cli;
mod http;
pub mod idempotency_retention;
pub mod metrics;
pub mod migrate;
pub mod readiness;
pub mod settings;
pub mod store;
pub mod wake_up;

pub use application::{Application, serve};
