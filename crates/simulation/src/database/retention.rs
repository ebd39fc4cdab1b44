//! Deleting what is old and done: events, inbox rows, and dead letters that are settled.

use std::ops::Bound;
use std::time::Duration;

use storage::inbox::retention::{Sweep, Swept};
use storage::outbox::{Cleaned, Done};
use uuid::Uuid;

use super::Connection;
use super::call::Scope;
use super::error::DatabaseError;
use super::hash;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{DeadLetterRow, InboxRow};
use super::transaction::{Failure, Statement};

impl Connection<'_> {
    /// As `storage::outbox::clean`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn clean(
        &mut self,
        done: Done,
        retention: Duration,
        after: Option<i64>,
        size: i64,
    ) -> Result<Option<Cleaned>, DatabaseError> {
        self.call("clean", Scope::Transaction, |call| {
            let lock = hash::retention("public");
            if !call.step(|statement| statement.writer.try_lock(lock))? {
                return Ok(None);
            }
            let behind = (Bound::Excluded(after.unwrap_or(i64::MIN)), Bound::Unbounded);
            let size = usize::try_from(size).unwrap_or(0);
            let cleaned = call.step(|statement| match done {
                Done::Published => statement.clean_published(retention, behind, size),
                Done::Discarded => statement.clean_discarded(retention, behind, size),
            })?;
            Ok(Some(cleaned))
        })
    }

    /// As `storage::inbox::retention::sweep`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn sweep(&mut self, sweep: &Sweep<'_>) -> Result<Swept, DatabaseError> {
        self.run(|statement| statement.sweep(sweep))
    }

    /// As `storage::inbox::retention::sweep_dead_letters`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn sweep_dead_letters(&mut self, sweep: &Sweep<'_>) -> Result<i64, DatabaseError> {
        self.run(|statement| statement.sweep_dead_letters(sweep))
    }

    /// As `storage::inbox::retention::unpublished_older_than`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn unpublished_older_than(&mut self, age: Duration) -> Result<bool, DatabaseError> {
        self.run(|statement| {
            let slots = domain::Slot::all();
            let pending = slots.filter_map(|slot| statement.first_pending(slot.number()));
            let mut held = statement.tables.held.scan(statement.view(), ..);
            let held = held.find(|(_, row)| row.discarded_at.is_none());
            let mut first = pending.chain(held.map(|(id, _)| *id));
            let old = |id: i64| {
                let row = statement.tables.events.get(statement.view(), &id);
                row.is_some_and(|row| statement.is_older(row.created_at, age))
            };
            Ok(first.any(old))
        })
    }
}

type After = (Bound<i64>, Bound<i64>);

impl Statement<'_> {
    fn is_older(&self, at: Duration, than: Duration) -> bool {
        at.checked_add(than).is_some_and(|end| end < self.began)
    }

    fn clean_published(
        &mut self,
        retention: Duration,
        behind: After,
        size: usize,
    ) -> Result<Cleaned, Failure> {
        let rows = self.tables.published.scan(self.view(), behind);
        let seen: Vec<(i64, Duration)> = rows
            .take(size)
            .map(|(id, row)| (*id, row.processed_at))
            .collect();
        let mut deleted = 0;
        for (id, processed_at) in &seen {
            let published = &mut self.tables.published;
            let end = processed_at.checked_add(retention);
            if end.is_none_or(|end| end >= self.began)
                || published.try_lock(&mut self.writer, id)?.is_none()
            {
                continue;
            }
            published.delete(&mut self.writer, id)?;
            self.delete_event(*id)?;
            deleted += 1;
        }
        if self.has(Mutation::RetentionDeletesUnpublished) {
            deleted += self.delete_old_events(retention)?;
        }
        let last = seen.last().map(|(id, _)| *id);
        let young = |id: &i64| {
            let row = self.tables.events.get(self.view(), id);
            row.is_some_and(|row| {
                let end = row.created_at.checked_add(retention);
                end.is_none_or(|end| end >= self.began)
            })
        };
        Ok(Cleaned {
            deleted,
            last: last.filter(|id| deleted > 0 || !young(id)),
        })
    }

    fn clean_discarded(
        &mut self,
        retention: Duration,
        behind: After,
        size: usize,
    ) -> Result<Cleaned, Failure> {
        let rows = self.tables.held.scan(self.view(), behind);
        let seen: Vec<(i64, Option<Duration>)> = rows
            .take(size)
            .map(|(id, row)| (*id, row.discarded_at))
            .collect();
        let mut deleted = 0;
        for (id, discarded_at) in &seen {
            if !discarded_at.is_some_and(|at| self.is_older(at, retention)) {
                continue;
            }
            let held = &mut self.tables.held;
            if held.try_lock(&mut self.writer, id)?.is_some() {
                held.delete(&mut self.writer, id)?;
                self.delete_event(*id)?;
                deleted += 1;
            }
        }
        let last = seen.last().map(|(id, _)| *id);
        Ok(Cleaned { deleted, last })
    }

    fn delete_event(&mut self, id: i64) -> Result<(), Failure> {
        let events = &mut self.tables.events;
        let there = events.lock(&mut self.writer, &id, Mode::Exclusive)?;
        if there.is_some() {
            events.delete(&mut self.writer, &id)?;
        }
        Ok(())
    }

    /// [`Mutation::RetentionDeletesUnpublished`].
    fn delete_old_events(&mut self, retention: Duration) -> Result<i64, Failure> {
        let rows = self.tables.events.scan(self.view(), ..);
        let old: Vec<i64> = rows
            .filter(|(_, row)| self.is_older(row.created_at, retention))
            .map(|(id, _)| *id)
            .collect();
        for id in &old {
            self.delete_event(*id)?;
        }
        Ok(i64::try_from(old.len()).unwrap_or(i64::MAX))
    }

    fn sweep(&mut self, sweep: &Sweep<'_>) -> Result<Swept, Failure> {
        let key = |id: Uuid| (sweep.group.to_owned(), id);
        let behind = Bound::Excluded(key(sweep.after.unwrap_or(Uuid::nil())));
        let rows = self
            .tables
            .inbox
            .scan(self.view(), (behind, Bound::Unbounded));
        let walked: Vec<Uuid> = rows
            .take_while(|((group, _), _)| group == sweep.group)
            .map(|((_, id), _)| *id)
            .take(usize::try_from(sweep.limit).unwrap_or(0))
            .collect();
        let any_offset = self.has(Mutation::SweepIgnoresLogStart);
        let began = self.began;
        let old = |row: &InboxRow| {
            let newest = row.redelivered_at.unwrap_or(row.processed_at);
            let end = newest.checked_add(sweep.older_than);
            let mut starts = sweep.log_starts.iter();
            row.topic == sweep.topic
                && end.is_some_and(|end| end < began)
                && starts.any(|(partition, start)| {
                    *partition == row.partition && (row.offset < *start || any_offset)
                })
        };
        let mut deleted = 0;
        let inbox = &mut self.tables.inbox;
        for id in &walked {
            let key = key(*id);
            if inbox.get(self.writer.view, &key).is_some_and(old)
                && inbox
                    .try_lock(&mut self.writer, &key)?
                    .is_some_and(|row| old(&row))
            {
                inbox.delete(&mut self.writer, &key)?;
                deleted += 1;
            }
        }
        Ok(Swept {
            reached: walked.last().copied(),
            deleted,
        })
    }

    fn sweep_dead_letters(&mut self, sweep: &Sweep<'_>) -> Result<i64, Failure> {
        let began = self.began;
        let old = |row: &DeadLetterRow| {
            row.settled.is_some_and(|(at, _)| {
                let end = at.checked_add(sweep.older_than);
                end.is_some_and(|end| end < began)
            })
        };
        let mut deleted = 0;
        let letters = &mut self.tables.dead_letters;
        for (partition, start) in sweep.log_starts {
            let key = |offset| {
                let (group, topic) = (sweep.group.to_owned(), sweep.topic.to_owned());
                (group, topic, *partition, offset)
            };
            let rows = letters.scan(self.writer.view, key(i64::MIN)..key(*start));
            let gone = rows.filter(|(_, row)| old(row)).map(|(key, _)| key.clone());
            for key in gone.collect::<Vec<_>>() {
                if deleted < sweep.limit
                    && letters
                        .try_lock(&mut self.writer, &key)?
                        .is_some_and(|row| old(&row))
                {
                    letters.delete(&mut self.writer, &key)?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }
}
