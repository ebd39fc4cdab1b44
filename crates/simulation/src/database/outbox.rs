//! Writing events, and settling them.

use domain::{Body, NewEvent};
use storage::outbox::{Orphan, RowVersion, Settled};

use super::Connection;
use super::call::Scope;
use super::error::DatabaseError;
use super::hash::slot;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{EventRow, PendingRow, PublishedRow};
use super::transaction::{Failure, Statement};

impl Connection<'_> {
    /// As `storage::outbox::append`; returns the ids it drew. They show when the transaction commits.
    /// Nothing is refused: what no table takes is for the caller to leave out.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn append(&mut self, events: &[NewEvent]) -> Result<Vec<i64>, DatabaseError> {
        self.run(|statement| events.iter().map(|event| statement.append(event)).collect())
    }

    /// As `storage::outbox::remove_orphans`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn remove_orphans(&mut self, orphans: &[Orphan]) -> Result<usize, DatabaseError> {
        self.run(|statement| {
            let mut removed = 0;
            for orphan in orphans {
                if statement
                    .tables
                    .events
                    .get(statement.view(), &orphan.id)
                    .is_none()
                {
                    let key = (orphan.slot.number(), orphan.id);
                    removed += usize::from(statement.take_pending(&key, orphan.version, false)?);
                }
            }
            Ok(removed)
        })
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

impl Statement<'_> {
    fn append(&mut self, event: &NewEvent) -> Result<i64, Failure> {
        let last_event = &mut *self.last_event;
        let id = self.writer.once(|_| {
            *last_event += 1;
            Ok(*last_event)
        })?;
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
