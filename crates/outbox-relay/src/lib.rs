//! The relay: moves committed events from Postgres to Kafka, in order within a key, none lost.
//!
//! | module | what is in it |
//! |---|---|
//! | `app`, `cli`, `settings`, `metrics` | the process |
//! | `ports`, `adapters` | what the relay asks of Postgres and Kafka, and who answers |
//! | `event`, `lease` | what travels through the pipeline, and under which leases |
//! | `pipeline` | reader, router, settler, holder, and the loop that drives them |
//! | `sender` | one sender per Kafka partition |
//! | `topics` | which partition an event goes to |
//! | `unavailable` | circuit breakers, and the way back of what they held |
//! | `maintenance` | observes, judges progress, deletes |
//! | `commands` | what an operator asks and decides |
//!
//! A slot with events in flight is never read, which is what order rests on.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adapters;
pub mod app;
pub mod cli;
mod commands;
mod event;
mod lease;
mod maintenance;
pub mod metrics;
mod oversized;
mod pipeline;
pub mod ports;
mod sender;
pub mod settings;
mod slow_reads;
mod topics;
mod trace;
mod unavailable;

pub use metrics::Metrics;
pub use pipeline::relay::{Relay, RelayError, Step};
pub use sender::batch_size;
pub use settings::Settings;
