//! What operators order: redrive, discard and replay.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use storage::outbox::{Discarded, HoldCause, Redriven, ReplayBounds, TopicKey, Window};

use super::call::Scope;
use super::error::DatabaseError;
use super::hash::slot;
use super::locks::Mode;
use super::mutation::Mutation;
use super::outbox::event_bytes;
use super::rows::HeldRow;
use super::transaction::{Failure, Statement};
use super::{Connection, Database};

impl Connection<'_> {
    /// As `storage::outbox::dead_keys`; texts are compared by their bytes.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn dead_keys(
        &mut self,
        after: Option<&TopicKey>,
        limit: i64,
    ) -> Result<Vec<TopicKey>, DatabaseError> {
        self.run(|statement| {
            let rows = statement.tables.held.scan(statement.view(), ..);
            let keys: BTreeSet<TopicKey> = rows
                .filter(|(_, row)| row.blocks())
                .map(|(_, row)| of(row))
                .filter(|key| after.is_none_or(|after| key > after))
                .collect();
            let most = usize::try_from(limit).unwrap_or(0);
            Ok(keys.into_iter().take(most).collect())
        })
    }

    /// As `storage::outbox::redrive`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn redrive(&mut self, keys: &[TopicKey]) -> Result<Redriven, DatabaseError> {
        self.call("redrive", Scope::Transaction, |call| {
            call.step(|statement| statement.lock_keys(&borrowed(keys)))?;
            call.step(|statement| statement.redrive(keys))
        })
    }

    /// As `storage::outbox::discard`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn discard(
        &mut self,
        keys: &[TopicKey],
        only: Option<i64>,
    ) -> Result<Discarded, DatabaseError> {
        self.call("discard", Scope::Transaction, |call| {
            call.step(|statement| statement.lock_keys(&borrowed(keys)))?;
            let discarded = call.step(|statement| statement.discard(keys, only))?;
            let returned = call.step(|statement| statement.return_blocked(keys))?;
            Ok(Discarded {
                discarded,
                returned,
            })
        })
    }

    /// As `storage::outbox::replay`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn replay(
        &mut self,
        bounds: &ReplayBounds,
        after: Option<i64>,
        size: i64,
    ) -> Result<Window, DatabaseError> {
        self.run(|statement| {
            let (wanted, last) = statement.replayable(bounds, after, size);
            let mut matching = 0;
            for id in wanted {
                matching += i64::from(statement.replay(id)?);
            }
            Ok(Window { matching, last })
        })
    }

    /// As `storage::outbox::replayable`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn replayable(
        &mut self,
        bounds: &ReplayBounds,
        after: Option<i64>,
        size: i64,
    ) -> Result<Window, DatabaseError> {
        self.run(|statement| {
            let (wanted, last) = statement.replayable(bounds, after, size);
            let matching = i64::try_from(wanted.len()).unwrap_or(i64::MAX);
            Ok(Window { matching, last })
        })
    }
}

fn borrowed(keys: &[TopicKey]) -> Vec<(&str, &str)> {
    let keys = keys.iter();
    keys.map(|k| (k.topic.as_str(), k.key.as_str())).collect()
}

fn of(row: &HeldRow) -> TopicKey {
    TopicKey {
        topic: row.topic.clone(),
        key: row.key.clone(),
    }
}

impl Statement<'_> {
    /// The events that block keys, or are blocked, ascending by id.
    fn blocking(&self, keys: &[TopicKey]) -> Vec<(i64, HeldRow)> {
        let rows = self.tables.held.scan(self.view(), ..);
        let wanted = |row: &HeldRow| row.blocks() && keys.contains(&of(row));
        rows.filter(|(_, row)| wanted(row))
            .map(|(id, row)| (*id, row.clone()))
            .collect()
    }

    fn redrive(&mut self, keys: &[TopicKey]) -> Result<Redriven, Failure> {
        let mut rows = self.blocking(keys);
        if self.has(Mutation::RedriveLastFirst) {
            let last: BTreeMap<TopicKey, i64> = rows.iter().map(|(id, r)| (of(r), *id)).collect();
            rows.retain(|(id, row)| last[&of(row)] == *id);
        }
        let mut redriven = Redriven::default();
        for (id, _) in rows {
            match self.return_held(id, HeldRow::blocks)?.map(|row| row.cause) {
                Some(HoldCause::Dead) => redriven.dead += 1,
                Some(HoldCause::Blocked) => redriven.blocked += 1,
                Some(HoldCause::Unavailable) | None => {}
            }
        }
        Ok(redriven)
    }

    fn discard(&mut self, keys: &[TopicKey], only: Option<i64>) -> Result<i64, Failure> {
        let dead = |row: &HeldRow| row.blocks() && row.cause == HoldCause::Dead;
        let mut discarded = 0;
        for (id, row) in self.blocking(keys) {
            if !dead(&row) || only.is_some_and(|only| only != id) {
                continue;
            }
            let held = &mut self.tables.held;
            let row = held.lock(&mut self.writer, &id, Mode::Exclusive)?;
            if let Some(row) = row.filter(dead) {
                let row = HeldRow {
                    discarded_at: Some(self.now),
                    ..row
                };
                held.update(&mut self.writer, &id, row)?;
                discarded += 1;
            }
        }
        Ok(discarded)
    }

    fn return_blocked(&mut self, keys: &[TopicKey]) -> Result<i64, Failure> {
        let rows = self.blocking(keys);
        let mut first_dead: BTreeMap<TopicKey, i64> = BTreeMap::new();
        for (id, row) in &rows {
            if row.cause == HoldCause::Dead {
                first_dead.entry(of(row)).or_insert(*id);
            }
        }
        let blocked = |row: &HeldRow| row.blocks() && row.cause == HoldCause::Blocked;
        let mut returned = 0;
        for (id, row) in rows.into_iter().filter(|(_, row)| blocked(row)) {
            let first = first_dead.get(&of(&row)).copied();
            if first.is_none_or(|first| id < first) {
                if !self.has(Mutation::DiscardReturnsNothing) {
                    returned += i64::from(self.return_held(id, blocked)?.is_some());
                }
            } else if row.blocked_by != first {
                let held = &mut self.tables.held;
                let row = held.lock(&mut self.writer, &id, Mode::Exclusive)?;
                if let Some(row) = row.filter(blocked) {
                    let row = HeldRow {
                        blocked_by: first,
                        ..row
                    };
                    held.update(&mut self.writer, &id, row)?;
                }
            }
        }
        Ok(returned)
    }

    /// The published events within the bounds of the next ids, and the last of those ids.
    fn replayable(
        &self,
        bounds: &ReplayBounds,
        after: Option<i64>,
        size: i64,
    ) -> (Vec<i64>, Option<i64>) {
        let start = bounds.from_id.map_or(i64::MIN, |id| id.saturating_sub(1));
        let start = after.unwrap_or(i64::MIN).max(start);
        let range = (
            Bound::Excluded(start),
            Bound::Included(bounds.to_id.unwrap_or(i64::MAX).max(start)),
        );
        let view = self.view();
        let most = usize::try_from(size).unwrap_or(0);
        let seen: Vec<i64> = if start == i64::MAX {
            Vec::new()
        } else if let Some(key) = &bounds.key {
            let events = self.tables.events.scan(view, range);
            let of_key = events.filter(|(_, row)| row.event.key == *key);
            of_key.map(|(id, _)| *id).take(most).collect()
        } else {
            let published = self.tables.published.scan(view, range);
            published.map(|(id, _)| *id).take(most).collect()
        };
        let last = seen.last().copied();
        let wanted = seen.into_iter().filter(|id| {
            let published = self.tables.published.get(view, id);
            let event = self.tables.events.get(view, id);
            published.zip(event).is_some_and(|(published, event)| {
                let at = Database::time(published.processed_at);
                let topic = bounds.topic.as_deref();
                bounds.from.is_none_or(|from| at >= from)
                    && bounds.to.is_none_or(|to| at < to)
                    && topic.is_none_or(|topic| event.event.topic == topic)
            })
        });
        (wanted.collect(), last)
    }

    fn replay(&mut self, id: i64) -> Result<bool, Failure> {
        let published = &mut self.tables.published;
        let there = published.lock(&mut self.writer, &id, Mode::Exclusive)?;
        if there.is_none() {
            return Ok(false);
        }
        published.delete(&mut self.writer, &id)?;
        if let Some(row) = self.tables.events.get(self.writer.view, &id) {
            let (slot, bytes) = (slot(&row.event.key).number(), event_bytes(&row.event));
            self.enqueue(slot, id, bytes)?;
        }
        Ok(true)
    }
}
