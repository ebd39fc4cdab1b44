//! The transaction of a batch: the fence, the inbox, the offset.

use std::collections::HashSet;

use domain::EventId;
use storage::inbox::{Opened, Progress, Stream};
use storage::lease::MemberId;
use uuid::Uuid;

use super::offset_key;
use crate::database::Connection;
use crate::database::error::DatabaseError;
use crate::database::locks::Mode;
use crate::database::mutation::Mutation;
use crate::database::rows::{InboxRow, LeaseRow};
use crate::database::transaction::{Failure, Statement};

impl Connection<'_> {
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
