//! Leases: which process works on which unit (a slot of the outbox, a partition of a topic).
//!
//! A process shows that it lives by a heartbeat row; it owns the units whose row names it, each
//! under an epoch that grows with every change of owner. [`decide`](decision::decide) says what to
//! claim and what to release, from the contents of the two tables alone; [`Keeper`] acts on it.
//! Leases keep processes out of each other's way. That no order breaks and no effect doubles rests
//! on the statements that settle and fence, not on two processes never believing they own the same.

mod decision;
mod keeper;
mod lifecycle;
mod ownership;
mod statements;
mod table;

pub use decision::{Decision, Member, Snapshot, Unit, decide};
pub use keeper::Keeper;
pub use lifecycle::{LeasedWorkError, run_leased};
pub use ownership::{HeldLease, Leases, Ownership};
pub use statements::{
    Claim, claim, ensure_units, leave, release, remove_expired_members, renew, snapshot,
};
pub use table::{LeaseTable, PostgresLeases};

use std::fmt;

use uuid::Uuid;

/// Identifies one run of one process. New at every start, so that a restart is a new member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Uuid);

impl MemberId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for MemberId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
