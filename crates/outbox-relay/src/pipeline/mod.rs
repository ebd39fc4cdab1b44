//! The way of an event through the relay.
//!
//! ```text
//! reader ─▶ router ─▶ one sender per Kafka partition ─▶ settler
//!    ▲                                                    │
//!    └──────────── a slot is idle again ◀─────────────────┘
//! ```
//! [`relay::Relay`] is the loop. The senders are in [`crate::sender`]. What cannot go out now goes to
//! the [`holder`] instead of the settler.

mod holder;
mod in_flight;
mod poll_interval;
mod reader;
pub(crate) mod relay;
mod router;
mod settler;
pub(crate) mod start;
pub(crate) mod wake_up;
