//! The relay: moves committed events from Postgres to Kafka, in order within a key, none lost.
//!
//! ```text
//! reader ─▶ router ─▶ one sender per Kafka partition ─▶ settler
//!    ▲                                                    │
//!    └──────────── a slot is idle again ◀─────────────────┘
//! ```
//! [`relay::Relay`] reads the lowest pending events of all its idle slots and routes them; a
//! [`sender`] keeps one request in flight per partition; the [`settler`] records what Kafka
//! acknowledged. A slot with events in flight is never read, which is what order rests on.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod chunk;
pub mod cli;
mod commands;
mod delivery;
mod dispatch;
mod diverted;
mod event;
mod first_waiting;
mod giants;
mod health;
mod holder;
mod lease;
pub mod metrics;
mod missing;
mod observer;
mod pacing;
mod poison;
mod reader;
pub mod relay;
mod retention;
mod routes;
mod sender;
mod senders;
pub mod settings;
mod settler;
mod slots;
mod topics;
mod trace;
mod unavailable;
mod unroutable;
mod verdicts;
mod wake;
mod wiring;

pub use metrics::Metrics;
pub use relay::{Relay, RelayError, Step};
pub use settings::Settings;
