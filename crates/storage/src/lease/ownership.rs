//! What a member owns, as its workers see it, and what they ask of the keeper.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::MemberId;

/// How a unit is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLease {
    pub epoch: i64,
    /// Wanted by another member: take up nothing new, and release it when nothing is in flight.
    pub leaving: bool,
}

/// What a member owns, and until when it may believe so without another beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    pub(super) units: BTreeMap<i32, HeldLease>,
    pub(super) valid_until: Instant,
}

impl Ownership {
    /// The epoch a unit is owned under, `None` when it is not owned or the time has run out.
    pub fn epoch(&self, unit: i32) -> Option<i64> {
        (!self.has_run_out())
            .then(|| self.units.get(&unit).map(|tenure| tenure.epoch))
            .flatten()
    }

    /// Whether nothing is known to be owned any more, since nobody could renew it.
    pub fn has_run_out(&self) -> bool {
        Instant::now() >= self.valid_until
    }

    /// All units owned, none when the time has run out.
    pub fn units(&self) -> impl Iterator<Item = (i32, HeldLease)> + '_ {
        let valid = !self.has_run_out();
        self.units
            .iter()
            .filter(move |_| valid)
            .map(|(unit, tenure)| (*unit, *tenure))
    }
}

/// The workers' view of their leases. Clones see the same.
#[derive(Debug, Clone)]
pub struct Leases {
    pub(super) member: MemberId,
    pub(super) ownership: watch::Receiver<Ownership>,
    pub(super) requests: mpsc::Sender<Request>,
}

/// What workers ask of the keeper.
#[derive(Debug)]
pub(super) enum Request {
    Release(i32),
    /// The scope has this many units now.
    Resize(i32),
}

impl Leases {
    /// The member that owns.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// What is owned now.
    pub fn ownership(&self) -> Ownership {
        self.ownership.borrow().clone()
    }

    /// The epoch `unit` is owned under at this moment.
    pub fn epoch(&self, unit: i32) -> Option<i64> {
        self.ownership.borrow().epoch(unit)
    }

    /// Waits until the set of owned units changes. Cancellation safe. Never returns once the keeper
    /// is gone.
    pub async fn changed(&mut self) {
        if self.ownership.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Hands a unit over: nothing of it is in flight any more.
    pub async fn release(&self, unit: i32) {
        // The keeper being gone, the lease runs out by itself.
        let _ = self.requests.send(Request::Release(unit)).await;
    }

    /// Tells the keeper that the scope has `count` units now. What is owned beyond them is wanted
    /// back.
    pub async fn resize(&self, count: i32) {
        // The keeper being gone, there is nobody to own more or less.
        let _ = self.requests.send(Request::Resize(count)).await;
    }
}
