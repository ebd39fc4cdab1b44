//! An operator's decision on dead letters: redrive or discard them.
//!
//! Each decision is one transaction of its own, made beside whatever process owns the partition. The
//! two are kept apart by a lock on the key, see [`storage::inbox::dead_letters::held_keys`]; that no effect happens
//! twice rests on the inbox, as ever.

use std::collections::{BTreeMap, HashSet};

use domain::{EventId, Position};
use messaging::IncomingRecord;
use storage::StorageError;
use storage::inbox::Stream;
use storage::inbox::dead_letters::{Amount, Cause, Ending, Stored};

use crate::apply::batch::{New, Split, letter, sort, split};
use crate::apply::dead_letter_event::dead_letter_event;
use crate::apply::decode::{Decoded, decode};
use crate::apply::effects::apply_narrowing;
use crate::apply::error::EffectError;
use crate::ports::{Inbox, Transaction};
use crate::registry::Registry;

/// What is read and applied at once.
const CHUNK: Amount = Amount {
    records: 500,
    bytes: 4 * 1024 * 1024,
};

/// What to do with a held record, and with those of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Apply the held records of its key, in order, as far as possible.
    Redrive,
    /// Give the dead letter up and apply the records it blocks.
    Discard,
}

/// What a decision did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// Effects that happened.
    pub applied: usize,
    /// Events that had been applied before.
    pub duplicates: usize,
    /// Records discarded.
    pub discarded: usize,
    /// The record that still cannot be applied, and why; it and the records it blocks stay held.
    pub stuck: Option<(Position, String)>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    #[error("no record is held at {0}")]
    NothingHeld(Position),
    #[error("{position} is blocked by {first}; redrive or discard that record first")]
    NotFirst { position: Position, first: Position },
    #[error(transparent)]
    Effect(#[from] EffectError),
}

impl From<StorageError> for DecisionError {
    fn from(error: StorageError) -> Self {
        Self::Effect(error.into())
    }
}

/// Decides on the record held at `position`, and on its key. A dry run does the same and undoes it.
///
/// # Errors
/// Nothing was done then.
///
/// # Cancellation
/// Dropped midway nothing is done.
pub async fn decide(
    inbox: &mut dyn Inbox,
    group: &str,
    position: &Position,
    decision: Decision,
    registry: &Registry,
    dry_run: bool,
) -> Result<Decided, DecisionError> {
    let mut transaction = inbox.begin().await?;
    let held = HeldKey {
        group,
        topic: &position.topic,
    };
    let decided = held.decide(&mut *transaction, position, decision, registry);
    let decided = decided.await;
    if decided.is_ok() && !dry_run {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    decided
}

/// What a group holds of a topic.
struct HeldKey<'a> {
    group: &'a str,
    topic: &'a str,
}

impl HeldKey<'_> {
    fn position(&self, stored: &Stored) -> Position {
        Position {
            topic: self.topic.to_owned(),
            partition: stored.partition,
            offset: stored.offset,
        }
    }

    async fn decide(
        &self,
        transaction: &mut dyn Transaction,
        position: &Position,
        decision: Decision,
        registry: &Registry,
    ) -> Result<Decided, DecisionError> {
        let nothing = || DecisionError::NothingHeld(position.clone());
        let key = transaction.key_of(self.group, position).await?;
        let key = key.ok_or_else(nothing)?;
        let mut chunk = match &key {
            Some(key) => {
                transaction.lock_key(self.group, self.topic, key).await?;
                self.next(transaction, key).await?
            }
            None => transaction
                .unsettled_without_key(self.group, position)
                .await?
                .into_iter()
                .collect(),
        };
        // Another command may have settled it before the lock was ours.
        let first = chunk.first().ok_or_else(nothing)?;
        let mut decided = Decided::default();
        if decision == Decision::Discard {
            let first_position = self.position(first);
            if first_position != *position {
                return Err(DecisionError::NotFirst {
                    position: position.clone(),
                    first: first_position,
                });
            }
            self.discard(transaction, first, registry).await?;
            decided.discarded = 1;
            chunk.remove(0);
            if let (true, Some(key)) = (chunk.is_empty(), &key) {
                chunk = self.next(transaction, key).await?;
            }
        }
        while !chunk.is_empty() && decided.stuck.is_none() {
            self.apply(transaction, &chunk, registry, &mut decided)
                .await?;
            chunk = match &key {
                Some(key) if decided.stuck.is_none() => self.next(transaction, key).await?,
                _ => Vec::new(),
            };
        }
        Ok(decided)
    }

    /// The next records of a key, all of one partition.
    async fn next(
        &self,
        transaction: &mut dyn Transaction,
        key: &[u8],
    ) -> Result<Vec<Stored>, DecisionError> {
        let unsettled = transaction.unsettled_of_key(self.group, self.topic, key, CHUNK);
        let mut chunk = unsettled.await?;
        if let Some(partition) = chunk.first().map(|stored| stored.partition) {
            let other = chunk
                .iter()
                .position(|stored| stored.partition != partition);
            chunk.truncate(other.unwrap_or(chunk.len()));
        }
        Ok(chunk)
    }

    fn stream(&self, partition: i32) -> Stream {
        Stream {
            group: self.group.to_owned(),
            topic: self.topic.to_owned(),
            partition,
        }
    }

    /// Its event counts as applied from here on: a copy of it has no effect.
    async fn discard(
        &self,
        transaction: &mut dyn Transaction,
        stored: &Stored,
        registry: &Registry,
    ) -> Result<(), DecisionError> {
        let decoded = decode(registry, self.topic, record(stored));
        if let Some(event_id) = decoded.event_id {
            let stream = self.stream(stored.partition);
            transaction
                .record(&stream, &[(event_id, stored.offset)])
                .await?;
        }
        let place = [(stored.partition, stored.offset)];
        transaction
            .settle(self.group, self.topic, &place, Ending::Discarded)
            .await?;
        Ok(())
    }

    /// Applies records of one key and partition in order, up to the first that cannot be applied.
    async fn apply(
        &self,
        transaction: &mut dyn Transaction,
        chunk: &[Stored],
        registry: &Registry,
        decided: &mut Decided,
    ) -> Result<(), DecisionError> {
        let stream = self.stream(chunk[0].partition);
        let read = |stored| decode(registry, self.topic, record(stored));
        let records: Vec<Decoded> = chunk.iter().map(read).collect();
        let sorted = sort(&records, HashSet::new(), &[]);
        let new = New::These(transaction.record(&stream, &sorted.newest).await?);
        let Split {
            fresh, candidates, ..
        } = split(&records, sorted.events, &new);
        let narrowed = apply_narrowing(transaction, &candidates).await?;
        let guilty = narrowed
            .guilty
            .into_iter()
            .map(|(nth, why)| (fresh[nth], why));
        let stuck = sorted.dead.into_iter().chain(guilty).min();
        // All of one key: nothing after the one that is stuck was applied.
        let end = stuck.as_ref().map_or(chunk.len(), |(place, _)| *place);
        let undone: Vec<EventId> = records[end..]
            .iter()
            .filter_map(|record| record.event_id)
            .filter(|event_id| new.contains(*event_id))
            .filter(|event_id| {
                records[..end]
                    .iter()
                    .all(|record| record.event_id != Some(*event_id))
            })
            .collect();
        transaction.unrecord(self.group, &undone).await?;
        let places: Vec<(i32, i64)> = chunk[..end]
            .iter()
            .map(|stored| (stored.partition, stored.offset))
            .collect();
        transaction
            .settle(self.group, self.topic, &places, Ending::Redriven)
            .await?;
        decided.applied += narrowed.applied.len();
        decided.duplicates += end - narrowed.applied.len();
        if let Some((place, reason)) = stuck {
            let (stored, position) = (&chunk[place], self.position(&chunk[place]));
            transaction.rejected(self.group, &position, &reason).await?;
            if stored.cause != Cause::Dead {
                let letter = letter(&records[place], Cause::Dead, reason.clone(), 1);
                let event = dead_letter_event(self.group, &position, &letter);
                transaction.append(&[event]).await?;
            }
            decided.stuck = Some((position, reason));
        }
        Ok(())
    }
}

/// The record as Kafka had it, but for its time, which nothing relies on where `ce_time` is.
fn record(stored: &Stored) -> IncomingRecord {
    let mut record = IncomingRecord {
        offset: stored.offset,
        timestamp: stored.held_at,
        key: stored.key.clone(),
        value: stored.value.clone(),
        headers: BTreeMap::new(),
        odd_headers: Vec::new(),
        omitted_bytes: stored.omitted_bytes.and_then(|bytes| bytes.try_into().ok()),
    };
    for (name, value) in stored.header_names.iter().zip(&stored.header_values) {
        record.push_header(name, value.clone());
    }
    record
}
