//! The outbox's tables: writing events, reading what is pending, recording what was published.

pub(crate) mod append;
mod batch;
mod columns;
mod fitness;
mod held;
mod hold;
mod horizon;
mod key_lock;
mod orphans;
mod read;
mod redrive;
mod replay;
mod retention;
mod settle;
mod status;
mod unavailable;
mod verify;
mod waiting;

pub use crate::xid::RowVersion;
pub use append::append;
pub use batch::{Batch, Giant, Orphan, Parked, PendingEvent};
pub use fitness::{Unfit, check_fitness};
pub use held::{HeldEvent, HeldFilter, held, held_event};
pub use hold::{Held, Hold, HoldCause, hold};
pub use horizon::{HorizonHolder, horizon_holders};
pub use orphans::remove_orphans;
pub use read::{BatchLimits, read_events_after, read_pending};
pub use redrive::{
    Discarded, Redriven, TopicKey, dead_keys, discard, discardable, redrivable, redrive,
};
pub use replay::{ReplayBounds, Window, database_time, replay, replayable};
pub use retention::{Cleaned, Done, clean};
pub use settle::{Settled, settle};
pub use status::{
    Backlog, HeldCounts, Sendable, SlotStatus, backlog, first_sendable, held_counts,
    published_count, slots,
};
pub use unavailable::{
    Head, ProbeLimits, Unavailable, bury_unavailable, move_back, probe_events, settle_unavailable,
    unavailable,
};
pub use verify::{Offender, Verified, verify};
pub use waiting::waiting_keys;

/// The statements whose plans matter, for the tests that look at those plans.
pub mod statements {
    pub use super::read::READ_PENDING;
    pub use super::replay::{REPLAY_BY_ID, REPLAY_BY_KEY};
    pub use super::retention::{CLEAN_DISCARDED, CLEAN_PUBLISHED};
    pub use super::settle::{SETTLE, SETTLE_BY_ID};
    pub use super::status::{BACKLOG, FIRST_SENDABLE, HELD_COUNTS};
}
