//! Reading what is pending, and which groups of unavailable events there are.

use std::collections::{BTreeMap, BTreeSet};

use domain::{OutboxEvent, Slot};
use storage::outbox::{
    Batch, BatchLimits, Destination, HoldCause, Orphan, Oversized, PendingEvent, RowVersion,
    UnavailableGroup,
};

use super::error::DatabaseError;
use super::mutation::Mutation;
use super::outbox::slot_range;
use super::rows::EventRow;
use super::transaction::Statement;
use super::{Connection, Database};

impl Connection<'_> {
    /// As `storage::outbox::read_pending`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn read_pending(
        &mut self,
        slots: &[Slot],
        limits: BatchLimits,
        default_source: &str,
    ) -> Result<Batch, DatabaseError> {
        self.run(|statement| Ok(statement.read_pending(slots, limits, default_source)))
    }
}

/// A pending row that a read found.
struct Found {
    slot: i16,
    id: i64,
    bytes: i32,
    version: RowVersion,
}

impl Statement<'_> {
    fn read_pending(&self, slots: &[Slot], limits: BatchLimits, default_source: &str) -> Batch {
        let found = self.find_pending(slots, limits);
        if found.is_empty() {
            return Batch::default();
        }
        let mut batch = Batch {
            bytes: found.iter().map(|row| i64::from(row.bytes)).sum(),
            groups: self.groups_of(&found),
            ..Batch::default()
        };
        let blocked = self.first_blocking();
        let mut cut = BTreeSet::new();
        for row in found {
            let slot = Slot::try_from(i32::from(row.slot)).expect("a slot");
            let (id, version, bytes) = (row.id, row.version, row.bytes);
            if cut.contains(&slot) {
                continue;
            }
            match self.tables.events.get(self.view(), &id) {
                None => batch.orphans.push(Orphan { slot, id, version }),
                Some(row) if i64::from(bytes) > limits.event_bytes => {
                    cut.insert(slot);
                    batch.oversized.push(Oversized {
                        slot,
                        id,
                        version,
                        bytes,
                        topic: row.event.topic.clone(),
                        key: row.event.key.clone(),
                    });
                }
                Some(row) => {
                    let of = (row.event.topic.as_str(), row.event.key.as_str());
                    let blocking = blocked.get(&of).copied();
                    batch.events.push(PendingEvent {
                        slot,
                        id,
                        version,
                        bytes,
                        event: outbox_event(row, default_source),
                        blocked_by: blocking.filter(|blocking| *blocking < id),
                    });
                }
            }
        }
        batch
    }

    /// What is within the limits, ascending by id.
    fn find_pending(&self, slots: &[Slot], limits: BatchLimits) -> Vec<Found> {
        let most = usize::try_from(limits.events).unwrap_or(0);
        let mut found = Vec::new();
        let mut total = 0;
        for slot in slots {
            let slot = slot.number();
            let rows = self.tables.pending.scan(self.view(), slot_range(slot));
            let mut of_slot = 0;
            for (key, row) in rows.take(most) {
                if of_slot >= limits.bytes || total >= limits.total_bytes {
                    break;
                }
                of_slot += i64::from(row.bytes);
                total += i64::from(row.bytes);
                found.push(Found {
                    slot,
                    id: key.1,
                    bytes: row.bytes,
                    version: row.version,
                });
            }
        }
        found.sort_unstable_by_key(|row| row.id);
        found
    }

    /// The groups of unavailable events of each slot and topic of these.
    fn groups_of(&self, found: &[Found]) -> Vec<UnavailableGroup> {
        let mut groups = self.groups(|slot| found.iter().any(|row| row.slot == slot));
        if groups.is_empty() || self.has(Mutation::ReadIgnoresGroups) {
            return Vec::new();
        }
        let event = |row: &Found| {
            let event = self.tables.events.get(self.view(), &row.id)?;
            Some((row.slot, event.event.topic.as_str()))
        };
        let topics: BTreeSet<(i16, &str)> = found.iter().filter_map(event).collect();
        groups.retain(|group| topics.contains(&(group.slot.number(), group.topic.as_str())));
        groups
    }

    /// The groups of unavailable events of some slots, ascending.
    pub(super) fn groups(&self, of: impl Fn(i16) -> bool) -> Vec<UnavailableGroup> {
        let mut lowest: BTreeMap<(i16, &str, Destination), i64> = BTreeMap::new();
        for (id, row) in self.tables.held.scan(self.view(), ..) {
            if row.cause == HoldCause::Unavailable && of(row.slot) {
                let group = (row.slot, row.topic.as_str(), row.destination);
                lowest.entry(group).or_insert(*id);
            }
        }
        let groups = lowest.into_iter();
        groups
            .map(|((slot, topic, destination), lowest)| UnavailableGroup {
                slot: Slot::try_from(i32::from(slot)).expect("a slot"),
                topic: topic.to_owned(),
                destination,
                lowest,
            })
            .collect()
    }

    /// The lowest id that blocks each topic and key.
    fn first_blocking(&self) -> BTreeMap<(&str, &str), i64> {
        let mut first = BTreeMap::new();
        if !self.has(Mutation::ReadMissesBlockedBy) {
            for (id, row) in self.tables.held.scan(self.view(), ..) {
                if row.blocks() {
                    first
                        .entry((row.topic.as_str(), row.key.as_str()))
                        .or_insert(*id);
                }
            }
        }
        first
    }
}

fn outbox_event(row: &EventRow, default_source: &str) -> OutboxEvent {
    let event = row.event.clone();
    OutboxEvent {
        event_id: event.event_id,
        topic: event.topic,
        key: event.key,
        event_type: event.event_type,
        schema_version: event.schema_version,
        source: event
            .source
            .map_or_else(|| default_source.to_owned(), Into::into),
        content: event.content,
        headers: event.headers,
        created_at: Database::time(row.created_at),
    }
}
