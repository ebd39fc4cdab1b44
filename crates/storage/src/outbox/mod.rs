//! The outbox's tables: writing events, reading what is pending, recording what was published.

mod append;
mod fitness;
mod hold;
mod key_lock;
mod read;
mod settle;
mod status;
mod unavailable;

pub use crate::xid::RowVersion;
pub use append::append;
pub use fitness::{Unfit, check_fitness};
pub use hold::{Held, Hold, HoldCause, hold};
pub use read::{Batch, BatchLimits, Parked, PendingEvent, read_pending};
pub use settle::{Settled, settle};
pub use status::{Backlog, backlog};
pub use unavailable::{Unavailable, move_back, probe_events, settle_unavailable, unavailable};

/// The statements whose plans matter, for the tests that look at those plans.
pub mod statements {
    pub use super::read::READ_PENDING;
    pub use super::settle::SETTLE;
}
