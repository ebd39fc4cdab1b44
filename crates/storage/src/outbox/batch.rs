//! What one read found. Pure: [`super::read`] asks for it.

use std::collections::HashMap;

use domain::{OutboxEvent, Slot};

use super::redrive::TopicKey;
use super::unavailable::UnavailableGroup;
use crate::pg::xid::RowVersion;

/// A pending event, with what settling it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingEvent {
    pub slot: Slot,
    /// Order of events within a key.
    pub id: i64,
    /// The version of its row in `outbox_pending` that was read.
    pub version: RowVersion,
    /// As the trigger counted: key, payload and headers.
    pub bytes: i32,
    pub event: OutboxEvent,
    /// The lowest dead event of its topic and key, if one comes before it: this one must follow it.
    pub blocked_by: Option<i64>,
}

/// A pending id without an event: somebody deleted from `outbox_event` by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    pub slot: Slot,
    pub id: i64,
    /// The version of its row in `outbox_pending` that was read.
    pub version: RowVersion,
}

/// A pending event that is too large to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversized {
    pub slot: Slot,
    pub id: i64,
    pub version: RowVersion,
    pub bytes: i32,
    pub topic: String,
    pub key: String,
}

/// What one read found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Ascending by id.
    pub events: Vec<PendingEvent>,
    /// At most one of a slot: what is behind it stays for the next read, when it may be held.
    pub oversized: Vec<Oversized>,
    pub orphans: Vec<Orphan>,
    /// The groups of unavailable events of each slot and topic among `events`, as of the same moment.
    pub groups: Vec<UnavailableGroup>,
    /// Of all that was found, read or not: what the limits count.
    pub bytes: i64,
}

impl Batch {
    /// Whether there is nothing to do about any event.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.oversized.is_empty()
    }
}

/// What a row of the first part says.
pub(super) struct PendingRow {
    pub(super) slot: Slot,
    pub(super) bytes: i32,
    pub(super) version: RowVersion,
}

/// The parts and the outlines of what was too large, by id.
pub(super) fn joined(
    mut pending: Vec<(i64, PendingRow)>,
    mut events: Vec<(i64, OutboxEvent)>,
    blocked: &HashMap<i64, i64>,
    groups: Vec<UnavailableGroup>,
    mut outlines: HashMap<i64, TopicKey>,
) -> Batch {
    pending.sort_unstable_by_key(|(id, _)| *id);
    events.sort_unstable_by_key(|(id, _)| *id);
    let mut events = events.into_iter().peekable();
    let mut batch = Batch {
        events: Vec::with_capacity(pending.len()),
        bytes: pending.iter().map(|(_, row)| i64::from(row.bytes)).sum(),
        groups,
        ..Batch::default()
    };
    for (id, row) in pending {
        let (slot, bytes, version) = (row.slot, row.bytes, row.version);
        let event = events.next_if(|(event, _)| *event == id);
        if batch.oversized.iter().any(|event| event.slot == slot) {
            continue;
        }
        if let Some((_, event)) = event {
            batch.events.push(PendingEvent {
                slot,
                id,
                version,
                bytes,
                event,
                blocked_by: blocked.get(&id).copied(),
            });
        } else if let Some(TopicKey { topic, key }) = outlines.remove(&id) {
            batch.oversized.push(Oversized {
                slot,
                id,
                version,
                bytes,
                topic,
                key,
            });
        } else {
            batch.orphans.push(Orphan { slot, id, version });
        }
    }
    batch
}
