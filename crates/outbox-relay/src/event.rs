//! What travels through the pipeline: events on their way out, and the slots they come back to.

use std::collections::HashMap;
use std::time::Duration;

use domain::{OutboxEvent, Slot};
use storage::outbox::{Destination, Hold, HoldCause, RowVersion, Settled};

/// How long an event waits for a partition whose requests fail, or for a topic that does not exist,
/// before it is held.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// An event on its way.
#[derive(Debug)]
pub(crate) struct Dispatched {
    pub(crate) slot: Slot,
    /// The epoch its slot was owned under when it was read.
    pub(crate) epoch: i64,
    /// The read that brought it; grows.
    pub(crate) batch: u64,
    pub(crate) id: i64,
    pub(crate) version: RowVersion,
    pub(crate) destination: Destination,
    pub(crate) event: OutboxEvent,
}

impl Dispatched {
    pub(crate) fn to_hold(&self, cause: HoldCause, error: Option<String>, attempts: i32) -> Hold {
        Hold {
            slot: self.slot,
            epoch: self.epoch,
            id: self.id,
            version: self.version,
            topic: self.event.topic.clone(),
            key: self.event.key.clone(),
            destination: self.destination,
            cause,
            error,
            attempts,
        }
    }
}

/// Events that are in flight no more, by slot.
#[derive(Debug)]
pub(crate) struct Returned(pub(crate) Vec<(Slot, usize)>);

impl Returned {
    pub(crate) fn of(settled: &[Settled]) -> Self {
        Self::slots(settled.iter().map(|event| event.slot))
    }

    pub(crate) fn slots(slots: impl Iterator<Item = Slot>) -> Self {
        let mut counts = HashMap::new();
        for slot in slots {
            *counts.entry(slot).or_insert(0) += 1;
        }
        Self(counts.into_iter().collect())
    }
}
