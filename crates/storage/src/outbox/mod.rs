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

pub use crate::pg::xid::RowVersion;
pub use append::append;
pub use batch::{Batch, Orphan, Oversized, PendingEvent};
pub use fitness::{Unfit, check_fitness};
pub use held::{HeldEvent, HeldFilter, held, held_event};
pub use hold::{Destination, HeldEvents, Hold, HoldCause, hold};
pub use horizon::{HorizonHolder, horizon_holders};
pub use orphans::remove_orphans;
pub use read::{BatchLimits, limit_statements, read_events_after, read_pending};
pub use redrive::{
    Discarded, Redriven, TopicKey, dead_keys, discard, discardable, redrivable, redrive,
};
pub use replay::{ReplayBounds, Window, database_time, replay, replayable};
pub use retention::{Cleaned, Done, clean};
pub use settle::{Settled, settle};
pub use status::{
    Backlog, HeldCounts, LowestPending, SlotStatus, StateAge, backlog, held_counts, lowest_pending,
    oldest_by_state, published_count, slots, slots_to_watch, still_waiting,
};
pub use unavailable::{MoveFrom, UnavailableGroup, move_back, unavailable_groups};
pub use verify::{Offender, Verified, verify};

/// The statements whose plans matter, for the tests that look at those plans.
pub mod statements {
    pub use super::hold::HOLD;
    pub use super::read::READ_PENDING;
    pub use super::replay::{REPLAY_BY_ID, REPLAY_BY_KEY};
    pub use super::retention::{CLEAN_DISCARDED, CLEAN_PUBLISHED};
    pub use super::settle::{SETTLE, SETTLE_BY_ID};
    pub use super::status::{BACKLOG, HELD_COUNTS, LOWEST_PENDING};
    pub use super::unavailable::{GROUPS, MOVE_BACK};
}
