//! The outbox's tables: writing events, reading what is pending, recording what was published.

mod append;
mod fitness;
mod key_lock;
mod read;
mod settle;
mod status;

pub use crate::xid::RowVersion;
pub use append::append;
pub use fitness::{Unfit, check_fitness};
pub use read::{Batch, BatchLimits, Parked, PendingEvent, read_pending};
pub use settle::{Settled, settle};
pub use status::{Backlog, backlog};

/// The statements whose plans matter, for the tests that look at those plans.
pub mod statements {
    pub use super::read::READ_PENDING;
    pub use super::settle::SETTLE;
}
