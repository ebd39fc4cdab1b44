//! The one transaction of a batch. Nothing is applied outside it.

use std::collections::HashSet;

use domain::{EventId, NewEvent, Position};
use storage::inbox::dead_letters::{Cause, DeadLetter};
use storage::inbox::{Opened, Progress, Stream};
use storage::lease::MemberId;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::apply::batch::{New, Sorted, Split, WAITS, letter, sort, split};
use crate::apply::dead_letter_event::dead_letter_event;
use crate::apply::decode::Decoded;
use crate::apply::dedup::{Dedup, record};
use crate::apply::effects::apply_narrowing;
use crate::apply::error::EffectError;
use crate::ports::{Inbox, Transaction};

/// Under which lease, and from which offset on, a batch is applied.
#[derive(Debug, Clone, Copy)]
pub struct Fence {
    pub owner: MemberId,
    pub epoch: i64,
    pub expected_offset: i64,
    /// Kafka's id of the topic that the batch is from, as far as it is recorded.
    pub topic_id: Option<Uuid>,
}

/// What to do when an event cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Undo the whole batch: it is to be tried again.
    WholeBatch,
    /// Hold it as a dead letter, tried this often, and apply the others.
    Isolate { attempts: i32 },
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied(Applied),
    /// The partition is not ours any more, or the group stands elsewhere: nothing was done.
    Fenced,
}

/// A batch that is committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events whose effect happened.
    pub new: usize,
    /// Their offsets.
    pub offsets: Vec<i64>,
    /// When they were created.
    pub created: Vec<OffsetDateTime>,
    /// Events that had been applied before, with the offsets of their copies.
    pub duplicates: Vec<(EventId, i64)>,
    /// Records that become dead letters, by offset, and why.
    pub dead: Vec<(i64, String)>,
    /// Records blocked by a dead letter of their key.
    pub blocked: usize,
    /// Records that came again after they had been held.
    pub settled: usize,
    pub progress: Progress,
}

/// Applies a batch: records in the order of the partition, beginning at the fence's offset or
/// beyond, after which the group stands at `next_offset`.
///
/// # Errors
/// When Postgres cannot be asked or a handler failed; nothing was done then, unless the connection
/// broke while committing: the fence tells when the batch is tried again.
///
/// # Cancellation
/// Dropped midway nothing is done.
pub async fn apply(
    inbox: &mut dyn Inbox,
    stream: &Stream,
    fence: Fence,
    batch: &Batch<'_>,
    attempt: Attempt,
) -> Result<Outcome, EffectError> {
    // Copies are rare, and to look for them costs as much as to record the batch.
    let mut dedup = Dedup::Optimistic;
    loop {
        let mut transaction = inbox.begin().await?;
        let applied = try_batch(&mut *transaction, stream, fence, batch, attempt, dedup).await;
        match applied {
            Ok(outcome) => {
                transaction.commit().await?;
                return Ok(outcome);
            }
            Err(error) => {
                transaction.rollback().await?;
                match error {
                    // Likely from here on, and then it cannot be said again.
                    EffectError::MetBefore => dedup = Dedup::Thorough,
                    error => return Err(error),
                }
            }
        }
    }
}

/// What a batch does in its transaction.
async fn try_batch(
    transaction: &mut dyn Transaction,
    stream: &Stream,
    fence: Fence,
    batch: &Batch<'_>,
    attempt: Attempt,
    dedup: Dedup,
) -> Result<Outcome, EffectError> {
    let Fence {
        owner,
        epoch,
        expected_offset,
        topic_id,
    } = fence;
    let offsets = (expected_offset, batch.next_offset - 1);
    let opened = transaction.fence(stream, offsets, topic_id, owner, epoch);
    let Some(opened) = opened.await? else {
        return Ok(Outcome::Fenced);
    };
    let sorted = sort_by_what_is_held(transaction, stream, batch, offsets, opened).await?;
    let new = record(transaction, stream, &sorted.newest, dedup).await?;
    let mut result = effect(transaction, stream, batch.records, sorted, new, attempt).await?;
    move_to_dead_letters(transaction, stream, &mut result).await?;
    let progress = Progress {
        next_offset: batch.next_offset,
        last_event_id: batch.last_event_id(),
        topic_id,
    };
    transaction.advance(stream, progress).await?;
    Ok(Outcome::Applied(Applied {
        progress,
        ..result.applied
    }))
}

/// Records of one partition, and where the group stands after them.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub records: &'a [Decoded],
    /// Beyond the last record, and beyond what follows it without being a record.
    pub next_offset: i64,
}

impl Batch<'_> {
    /// The batch of the first `count` records, or all of it.
    #[must_use]
    pub fn first(self, count: usize) -> Self {
        match self.records.get(count) {
            Some(next) => Self {
                records: &self.records[..count],
                next_offset: next.record.offset,
            },
            None => self,
        }
    }

    /// Of the record just before `next_offset`, if there is one.
    fn last_event_id(&self) -> Option<EventId> {
        let last = self.records.last()?;
        (last.record.offset + 1 == self.next_offset)
            .then_some(last.event_id)
            .flatten()
    }
}

async fn sort_by_what_is_held(
    transaction: &mut dyn Transaction,
    stream: &Stream,
    batch: &Batch<'_>,
    offsets: (i64, i64),
    opened: Opened,
) -> Result<Sorted, EffectError> {
    let held = if opened.keys_held {
        let keys: Vec<&[u8]> = batch
            .records
            .iter()
            .filter_map(|decoded| decoded.record.key.as_deref())
            .collect();
        transaction.held_keys(stream, &keys).await?
    } else {
        HashSet::new()
    };
    let held_before = if opened.held_before {
        transaction.held_before(stream, offsets).await?
    } else {
        Vec::new()
    };
    Ok(sort(batch.records, held, &held_before))
}

/// What is done so far, and the letters still to be held.
struct BatchResult {
    applied: Applied,
    letters: Vec<DeadLetter>,
}

/// The effects of new events.
async fn effect(
    transaction: &mut dyn Transaction,
    stream: &Stream,
    records: &[Decoded],
    sorted: Sorted,
    new: New,
    attempt: Attempt,
) -> Result<BatchResult, EffectError> {
    let Split {
        fresh,
        candidates,
        duplicates,
    } = split(records, sorted.events, &new);
    let mut letters: Vec<(usize, Cause, String, i32)> = Vec::new();
    letters.extend(
        sorted
            .dead
            .into_iter()
            .map(|(place, reason)| (place, Cause::Dead, reason, 1)),
    );
    let waits = |place| (place, Cause::Blocked, WAITS.to_owned(), 0);
    letters.extend(sorted.blocked.into_iter().map(waits));

    let done: Vec<usize> = match attempt {
        Attempt::WholeBatch => {
            let events: Vec<_> = candidates.into_iter().map(|c| c.received).collect();
            transaction.apply(&events).await?;
            fresh
        }
        Attempt::Isolate { attempts } => {
            let narrowed = apply_narrowing(transaction, &candidates).await?;
            let undone: Vec<EventId> = narrowed
                .guilty
                .iter()
                .map(|(nth, _)| *nth)
                .chain(narrowed.blocked.iter().copied())
                .map(|nth| candidates[nth].received.event_id)
                .collect();
            transaction.unrecord(&stream.group, &undone).await?;
            letters.extend(
                narrowed
                    .guilty
                    .into_iter()
                    .map(|(nth, reason)| (fresh[nth], Cause::Dead, reason, attempts)),
            );
            letters.extend(narrowed.blocked.into_iter().map(|nth| waits(fresh[nth])));
            narrowed.applied.into_iter().map(|nth| fresh[nth]).collect()
        }
    };
    letters.sort_unstable_by_key(|(place, ..)| *place);
    Ok(BatchResult {
        applied: Applied {
            new: done.len(),
            offsets: done.iter().map(|p| records[*p].record.offset).collect(),
            created: done.into_iter().filter_map(|p| records[p].time).collect(),
            duplicates,
            settled: sorted.settled,
            ..Applied::default()
        },
        letters: letters
            .into_iter()
            .map(|(place, cause, reason, attempts)| {
                letter(&records[place], cause, reason, attempts)
            })
            .collect(),
    })
}

/// Holds the letters and announces the dead among them through the outbox.
async fn move_to_dead_letters(
    transaction: &mut dyn Transaction,
    stream: &Stream,
    result: &mut BatchResult,
) -> Result<(), EffectError> {
    if let Some(offset) = transaction.hold(stream, &result.letters).await? {
        return Err(EffectError::PlaceTaken(offset));
    }
    let mut events: Vec<NewEvent> = Vec::new();
    for letter in &result.letters {
        match letter.cause {
            Cause::Blocked => result.applied.blocked += 1,
            Cause::Dead => {
                let dead = (letter.offset, letter.reason.clone());
                result.applied.dead.push(dead);
                let position = Position {
                    topic: stream.topic.clone(),
                    partition: stream.partition,
                    offset: letter.offset,
                };
                events.push(dead_letter_event(&stream.group, &position, letter));
            }
        }
    }
    if !events.is_empty() {
        transaction.append(&events).await?;
    }
    Ok(())
}
