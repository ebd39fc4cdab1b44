//! The consumer's transaction: fence, inbox, offset; and what handlers do in it.

use std::collections::{HashMap, HashSet};

use domain::EventId;
use storage::inbox::{Opened, Progress, Stream};
use storage::lease::MemberId;
use uuid::Uuid;

use super::Connection;
use super::error::DatabaseError;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{InboxRow, LeaseRow, OffsetKey};
use super::transaction::{Failure, Statement};

impl Connection<'_> {
    /// As `storage::inbox::progress`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn progress(&mut self, stream: &Stream) -> Result<Option<Progress>, DatabaseError> {
        let key = offset_key(stream);
        self.run(|statement| {
            Ok(statement
                .tables
                .offsets
                .get(statement.view(), &key)
                .copied())
        })
    }

    /// As `storage::inbox::next_offsets`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn next_offsets(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<HashMap<i32, i64>, DatabaseError> {
        self.run(|statement| {
            let rows = statement.tables.offsets.scan(statement.view(), ..);
            let of_topic = rows.filter(|((of, name, _), _)| of == group && name == topic);
            Ok(of_topic
                .map(|((_, _, partition), row)| (*partition, row.next_offset))
                .collect())
        })
    }

    /// As `storage::inbox::begin_at`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn begin_at(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let row = at(next_offset, topic_id);
            let offsets = &mut statement.tables.offsets;
            offsets.insert(&mut statement.writer, offset_key(stream), row)?;
            Ok(())
        })
    }

    /// As `storage::inbox::identify`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn identify(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Uuid,
    ) -> Result<(), DatabaseError> {
        let unknown = |row: &Progress| row.next_offset == next_offset && row.topic_id.is_none();
        let known = |row| Progress {
            topic_id: Some(topic_id),
            ..row
        };
        self.run(|statement| statement.update_offset(stream, unknown, known))
    }

    /// As `storage::inbox::reset`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn reset(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let (key, row) = (offset_key(stream), at(next_offset, topic_id));
            let offsets = &mut statement.tables.offsets;
            offsets.upsert(&mut statement.writer, &key, &row, |_| Some(row))?;
            Ok(())
        })
    }

    /// As `storage::inbox::fence`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn fence(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
        topic_id: Option<Uuid>,
        owner: MemberId,
        epoch: i64,
    ) -> Result<Option<Opened>, DatabaseError> {
        self.run(|statement| {
            let opened = statement.opened(stream, offsets);
            let passed = statement.fence(stream, offsets.0, topic_id, (owner, epoch))?;
            Ok(passed.then_some(opened))
        })
    }

    /// As `storage::inbox::record_unmet`.
    ///
    /// # Errors
    /// Any [`DatabaseError`] but [`DatabaseError::UniqueViolation`].
    pub fn record_unmet(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<bool, DatabaseError> {
        if events.is_empty() {
            return Ok(true);
        }
        match self.run(|statement| statement.record(stream, events, Met::Fails)) {
            Err(DatabaseError::UniqueViolation) => Ok(false),
            recorded => recorded.map(|_| true),
        }
    }

    /// As `storage::inbox::record`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn record(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<HashSet<EventId>, DatabaseError> {
        if events.is_empty() {
            return Ok(HashSet::new());
        }
        self.run(|statement| statement.record(stream, events, Met::IsLeftOut))
    }

    /// As `storage::inbox::follow_copies`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn follow_copies(
        &mut self,
        stream: &Stream,
        copies: &[(EventId, i64)],
    ) -> Result<(), DatabaseError> {
        if copies.is_empty() {
            return Ok(());
        }
        self.run(|statement| statement.follow_copies(stream, copies))
    }

    /// As `storage::inbox::unrecord`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn unrecord(&mut self, group: &str, events: &[EventId]) -> Result<(), DatabaseError> {
        if events.is_empty() {
            return Ok(());
        }
        self.run(|statement| {
            for event in events {
                let key = (group.to_owned(), event.as_uuid());
                let inbox = &mut statement.tables.inbox;
                let there = inbox.lock(&mut statement.writer, &key, Mode::Exclusive)?;
                if there.is_some() {
                    inbox.delete(&mut statement.writer, &key)?;
                }
            }
            Ok(())
        })
    }

    /// As `storage::inbox::advance`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn advance(&mut self, stream: &Stream, progress: Progress) -> Result<(), DatabaseError> {
        let moved = |row: Progress| Progress {
            topic_id: row.topic_id,
            ..progress
        };
        self.run(|statement| statement.update_offset(stream, |_| true, moved))
    }

    /// What a handler does with an event: it adds it to what `target` has had. Locks the target's row
    /// until the transaction ends, as `insert … on conflict do update` does.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn apply_effect(&mut self, target: &str, event: EventId) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let (key, effects) = (target.to_owned(), &mut statement.tables.effects);
            let more = |had: Vec<EventId>| Some([had, vec![event]].concat());
            effects.upsert(&mut statement.writer, &key, &vec![event], more)?;
            Ok(())
        })
    }
}

fn offset_key(stream: &Stream) -> OffsetKey {
    (stream.group.clone(), stream.topic.clone(), stream.partition)
}

fn at(next_offset: i64, topic_id: Option<Uuid>) -> Progress {
    Progress {
        next_offset,
        last_event_id: None,
        topic_id,
    }
}

/// What becomes of an event that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Fails,
    IsLeftOut,
}

/// In the order in which a statement takes them.
fn by_id(events: &[(EventId, i64)]) -> Vec<(EventId, i64)> {
    let mut events = events.to_vec();
    events.sort_unstable();
    events
}

impl Statement<'_> {
    fn update_offset(
        &mut self,
        stream: &Stream,
        wanted: impl Fn(&Progress) -> bool,
        changed: impl FnOnce(Progress) -> Progress,
    ) -> Result<(), Failure> {
        let (key, offsets) = (offset_key(stream), &mut self.tables.offsets);
        if offsets.get(self.writer.view, &key).is_some_and(&wanted) {
            let row = offsets.lock(&mut self.writer, &key, Mode::Exclusive)?;
            if let Some(row) = row.filter(wanted) {
                offsets.update(&mut self.writer, &key, changed(row))?;
            }
        }
        Ok(())
    }

    /// As of the statement's beginning, however long the locks take.
    fn opened(&self, stream: &Stream, (first, last): (i64, i64)) -> Opened {
        let rows = self.tables.dead_letters.scan(self.view(), ..);
        let of_topic =
            rows.filter(|((group, topic, ..), _)| *group == stream.group && *topic == stream.topic);
        let mut opened = Opened {
            keys_held: false,
            held_before: false,
        };
        for ((_, _, partition, offset), row) in of_topic {
            opened.keys_held |= row.holds_key();
            opened.held_before |= *partition == stream.partition && (first..=last).contains(offset);
        }
        opened
    }

    fn fence(
        &mut self,
        stream: &Stream,
        expected: i64,
        topic_id: Option<Uuid>,
        (owner, epoch): (MemberId, i64),
    ) -> Result<bool, Failure> {
        let scope = Stream::lease_scope(&stream.group, &stream.topic);
        let (key, lease_key) = (offset_key(stream), (scope, stream.partition));
        let (any_offset, any_epoch, any_topic) = (
            self.has(Mutation::FenceWithoutOffset),
            self.has(Mutation::FenceWithoutEpoch),
            self.has(Mutation::FenceWithoutTopicId),
        );
        let in_place = |row: &Progress| {
            (row.next_offset == expected || any_offset) && (row.topic_id == topic_id || any_topic)
        };
        let ours = |row: &LeaseRow| row.owner == Some(owner) && (row.epoch == epoch || any_epoch);
        let (offsets, leases) = (&self.tables.offsets, &self.tables.leases);
        let view = self.writer.view;
        if !offsets.get(view, &key).is_some_and(in_place)
            || !leases.get(view, &lease_key).is_some_and(ours)
        {
            return Ok(false);
        }
        if self.has(Mutation::FenceWithoutLocks) {
            return Ok(true);
        }
        let offset = offsets.lock(&mut self.writer, &key, Mode::Exclusive)?;
        let lease = leases.lock(&mut self.writer, &lease_key, Mode::Shared)?;
        Ok(offset.as_ref().is_some_and(in_place) && lease.as_ref().is_some_and(ours))
    }

    /// Inserts what is not there, and returns it.
    fn record(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
        met: Met,
    ) -> Result<HashSet<EventId>, Failure> {
        let mut new = HashSet::new();
        for (event, offset) in by_id(events) {
            if self.has(Mutation::RecordForgets) {
                new.insert(event);
                continue;
            }
            let row = InboxRow {
                topic: stream.topic.clone(),
                partition: stream.partition,
                offset,
                processed_at: self.began,
                redelivered_at: None,
            };
            let key = (stream.group.clone(), event.as_uuid());
            let inserted = self.tables.inbox.insert(&mut self.writer, key, row)?;
            if inserted || self.has(Mutation::InboxAppliesCopies) {
                new.insert(event);
            } else if met == Met::Fails {
                return Err(Failure::UniqueViolation);
            }
        }
        Ok(new)
    }

    fn follow_copies(&mut self, stream: &Stream, copies: &[(EventId, i64)]) -> Result<(), Failure> {
        for (event, offset) in by_id(copies) {
            let new = InboxRow {
                topic: stream.topic.clone(),
                partition: stream.partition,
                offset,
                processed_at: self.began,
                redelivered_at: Some(self.began),
            };
            let key = (stream.group.clone(), event.as_uuid());
            let follow = |old: InboxRow| {
                let here = (&old.topic, old.partition) == (&new.topic, new.partition);
                Some(InboxRow {
                    offset: if here { old.offset.max(offset) } else { offset },
                    processed_at: old.processed_at,
                    redelivered_at: old.redelivered_at.max(new.redelivered_at),
                    ..new.clone()
                })
            };
            let inbox = &mut self.tables.inbox;
            inbox.upsert(&mut self.writer, &key, &new, follow)?;
        }
        Ok(())
    }
}
