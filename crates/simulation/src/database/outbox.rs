//! Writing events, reading what is pending, and settling it.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Body, NewEvent, OutboxEvent, Slot};
use storage::outbox::{
    Batch, BatchLimits, Destination, HoldCause, Orphan, Oversized, PendingEvent, RowVersion,
    Settled, UnavailableGroup,
};

use super::error::DatabaseError;
use super::hash::slot;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{EventRow, PendingRow, PublishedRow};
use super::transaction::{Failure, Scope, Statement};
use super::{Connection, Database};

impl Connection<'_> {
    /// As `storage::outbox::append`; returns the ids it drew. They show when the transaction commits.
    /// Nothing is refused: what no table takes is for the caller to leave out.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn append(&mut self, events: &[NewEvent]) -> Result<Vec<i64>, DatabaseError> {
        self.run(|statement| events.iter().map(|event| statement.append(event)).collect())
    }

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

    /// As `storage::outbox::settle`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn settle(&mut self, events: &mut [Settled]) -> Result<usize, DatabaseError> {
        events.sort_unstable_by_key(|event| event.id);
        let events = &*events;
        self.call("settle", Scope::Statements, |call| {
            let moved = match call.step(|statement| statement.settle(events, OnConflict::Fail)) {
                Err(DatabaseError::UniqueViolation) => 0,
                moved => moved?,
            };
            if moved == events.len() {
                return Ok(moved);
            }
            let found = call.step(|statement| statement.settle(events, OnConflict::DoNothing))?;
            Ok(moved + found)
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnConflict {
    Fail,
    DoNothing,
}

/// A pending row that a read found.
struct Found {
    slot: i16,
    id: i64,
    bytes: i32,
    version: RowVersion,
}

impl Statement<'_> {
    fn append(&mut self, event: &NewEvent) -> Result<i64, Failure> {
        *self.last_event += 1;
        let id = *self.last_event;
        let row = EventRow {
            event: event.clone(),
            created_at: self.began,
        };
        self.tables.events.insert(&mut self.writer, id, row)?;
        let slot = slot(&event.key).number();
        self.enqueue(slot, id, event_bytes(event))?;
        Ok(id)
    }

    /// Makes an event pending, unless it is.
    pub(super) fn enqueue(&mut self, slot: i16, id: i64, bytes: i32) -> Result<(), Failure> {
        let row = PendingRow {
            bytes,
            version: RowVersion::from_numbers(
                self.writer.view.transaction.xmin(),
                self.writer.next_row(),
            ),
        };
        let pending = &mut self.tables.pending;
        pending.insert(&mut self.writer, (slot, id), row)?;
        Ok(())
    }

    fn read_pending(&self, slots: &[Slot], limits: BatchLimits, default_source: &str) -> Batch {
        let found = self.find_pending(slots, limits);
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

    fn settle(&mut self, events: &[Settled], conflict: OnConflict) -> Result<usize, Failure> {
        let mut moved = 0;
        for event in events {
            let key = (event.slot.number(), event.id);
            if !self.take_pending(&key, event.version, self.has(Mutation::SettleAnyVersion))? {
                continue;
            }
            moved += 1;
            let row = PublishedRow {
                partition: event.partition,
                offset: event.offset,
                processed_at: self.began,
            };
            let published = &mut self.tables.published;
            let inserted = published.insert(&mut self.writer, event.id, row)?;
            match conflict {
                OnConflict::Fail if !inserted => return Err(Failure::UniqueViolation),
                // The statement counts what it inserted.
                OnConflict::DoNothing if !inserted => moved -= 1,
                _ => {}
            }
        }
        Ok(moved)
    }

    /// Deletes a pending row, if it is still the version that was read.
    pub(super) fn take_pending(
        &mut self,
        key: &(i16, i64),
        version: RowVersion,
        any: bool,
    ) -> Result<bool, Failure> {
        let Some(row) = self.tables.pending.get(self.view(), key) else {
            return Ok(false);
        };
        if !any && row.version != version {
            return Ok(false);
        }
        let pending = &mut self.tables.pending;
        let there = pending.lock(&mut self.writer, key, Mode::Exclusive)?;
        if there.is_some() {
            pending.delete(&mut self.writer, key)?;
        }
        Ok(there.is_some())
    }

    /// The first pending id of a slot.
    pub(super) fn first_pending(&self, slot: i16) -> Option<i64> {
        let mut rows = self.tables.pending.scan(self.view(), slot_range(slot));
        rows.next().map(|(key, _)| key.1)
    }
}

pub(super) fn slot_range(slot: i16) -> std::ops::RangeInclusive<(i16, i64)> {
    (slot, i64::MIN)..=(slot, i64::MAX)
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

/// As the trigger counts. `headers::text` is what Postgres makes of it: `{"name": "value", …}`.
pub(super) fn event_bytes(event: &NewEvent) -> i32 {
    let content = event
        .content
        .as_ref()
        .map_or(0, |content| match &content.body {
            Body::Json(text) => text.len(),
            Body::Bytes(bytes) => bytes.len(),
        });
    let headers: usize = event
        .headers
        .iter()
        .map(|(name, value)| escaped(name) + escaped(value) + "\"\": \"\"".len())
        .sum();
    let commas = event.headers.len().saturating_sub(1) * ", ".len();
    let bytes = event.key.len() + content + headers + commas + "{}".len();
    i32::try_from(bytes).expect("an event is smaller than 2 GB")
}

/// The bytes of a text in JSON.
fn escaped(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            c if c < ' ' => "\\u0000".len(),
            c => c.len_utf8(),
        })
        .sum()
}
