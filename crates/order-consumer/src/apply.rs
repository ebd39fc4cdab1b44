//! The one transaction of a batch. Nothing is applied outside it.

use std::collections::{HashMap, HashSet};

use diesel_async::AsyncConnection;
use domain::{EventId, NewEvent, OrderCreated, Received};
use serde::Serialize;
use storage::dead_letters::{self, Cause, DeadLetter};
use storage::inbox::{self, Progress, Stream};
use storage::lease::MemberId;
use storage::{Connection, StorageError, outbox};

use crate::decode::Decoded;
use crate::handler::Handler;

/// Under which lease, and from which offset on, a batch is applied.
#[derive(Debug, Clone, Copy)]
pub struct Fence {
    pub owner: MemberId,
    pub epoch: i64,
    pub expected_offset: i64,
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
    /// Events that had been applied before, with the offset of their newest copy.
    pub duplicates: Vec<(EventId, i64)>,
    /// Records that can never be applied, by offset, and why.
    pub dead: Vec<(i64, String)>,
    /// Records that wait behind a dead one of their key.
    pub parked: usize,
    pub progress: Progress,
}

/// Applies a batch: records in the order of the partition, beginning at the fence's offset.
///
/// # Errors
/// When Postgres cannot be asked or a handler failed; nothing was done then, unless the connection
/// broke while committing: the fence tells when the batch is tried again.
///
/// # Cancellation
/// Dropped midway nothing is done; drop the connection too.
pub async fn apply<H: Handler>(
    conn: &mut Connection,
    stream: &Stream,
    fence: Fence,
    batch: &[Decoded],
    handler: &H,
) -> Result<Outcome, StorageError> {
    let Some(last) = batch.last() else {
        return Ok(Outcome::Fenced);
    };
    let progress = Progress {
        next_offset: last.record.offset + 1,
        last_event_id: last.event_id,
    };
    conn.transaction(async |conn| {
        let Fence {
            owner,
            epoch,
            expected_offset,
        } = fence;
        if !inbox::fence(conn, stream, expected_offset, owner, epoch).await? {
            return Ok(Outcome::Fenced);
        }
        let keys: Vec<&[u8]> = batch
            .iter()
            .filter_map(|decoded| decoded.record.key.as_deref())
            .collect();
        let held = dead_letters::held_keys(conn, stream, &keys).await?;
        let Sorted {
            events,
            newest,
            letters,
        } = sort(batch, held);

        let new = inbox::record(conn, stream, &newest).await?;
        let duplicates: Vec<(EventId, i64)> = duplicates(&newest, &new, &events);
        inbox::follow_copies(conn, stream, &known_before(&newest, &new)).await?;
        let fresh = first_copies(events, &new);
        if !fresh.is_empty() {
            handler.apply(conn, &fresh).await?;
        }
        let dead = bury(conn, stream, &letters).await?;
        inbox::advance(conn, stream, progress).await?;
        Ok(Outcome::Applied(Applied {
            new: fresh.len(),
            duplicates,
            parked: letters.len() - dead.len(),
            dead,
            progress,
        }))
    })
    .await
}

/// A batch, told apart.
struct Sorted {
    /// Good ones, copies included, in order.
    events: Vec<Received<OrderCreated>>,
    /// Each good event once, with the offset of its newest copy in this batch.
    newest: Vec<(EventId, i64)>,
    letters: Vec<DeadLetter>,
}

/// `held` are the keys that are held back already; a dead record holds back its key from there on.
fn sort(batch: &[Decoded], mut held: HashSet<Vec<u8>>) -> Sorted {
    let mut events = Vec::with_capacity(batch.len());
    let mut newest = HashMap::new();
    let mut letters = Vec::new();
    for decoded in batch {
        let key = decoded.record.key.as_ref();
        if key.is_some_and(|key| held.contains(key)) {
            let reason = "waits for a dead record of its key".to_owned();
            letters.push(letter(decoded, Cause::Behind, reason));
            continue;
        }
        match &decoded.event {
            Ok(received) => {
                newest.insert(received.event_id, received.offset);
                events.push(received.clone());
            }
            Err(reason) => {
                held.extend(key.cloned());
                letters.push(letter(decoded, Cause::Dead, reason.clone()));
            }
        }
    }
    Sorted {
        events,
        newest: newest.into_iter().collect(),
        letters,
    }
}

fn letter(decoded: &Decoded, cause: Cause, reason: String) -> DeadLetter {
    let record = &decoded.record;
    DeadLetter {
        offset: record.offset,
        event_id: decoded.event_id.map(EventId::as_uuid),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record
            .headers
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), value.clone()))
            .collect(),
        cause,
        reason,
    }
}

fn known_before(newest: &[(EventId, i64)], new: &HashSet<EventId>) -> Vec<(EventId, i64)> {
    newest
        .iter()
        .filter(|(event_id, _)| !new.contains(event_id))
        .copied()
        .collect()
}

/// Copies of events applied earlier, and second copies within the batch.
fn duplicates(
    newest: &[(EventId, i64)],
    new: &HashSet<EventId>,
    events: &[Received<OrderCreated>],
) -> Vec<(EventId, i64)> {
    let mut duplicates = known_before(newest, new);
    let mut seen = HashSet::new();
    duplicates.extend(
        events
            .iter()
            .filter(|e| new.contains(&e.event_id) && !seen.insert(e.event_id))
            .map(|e| (e.event_id, e.offset)),
    );
    duplicates
}

fn first_copies(
    events: Vec<Received<OrderCreated>>,
    new: &HashSet<EventId>,
) -> Vec<Received<OrderCreated>> {
    let mut seen = HashSet::new();
    events
        .into_iter()
        .filter(|e| new.contains(&e.event_id) && seen.insert(e.event_id))
        .collect()
}

/// Holds the letters, announces the dead among them through the outbox, and returns those.
async fn bury(
    conn: &mut Connection,
    stream: &Stream,
    letters: &[DeadLetter],
) -> Result<Vec<(i64, String)>, StorageError> {
    for letter in letters {
        dead_letters::hold(conn, stream, letter).await?;
    }
    let dead: Vec<&DeadLetter> = letters
        .iter()
        .filter(|letter| letter.cause == Cause::Dead)
        .collect();
    if !dead.is_empty() {
        let events: Vec<NewEvent> = dead.iter().map(|letter| obituary(stream, letter)).collect();
        outbox::append(conn, &events).await?;
    }
    Ok(dead
        .into_iter()
        .map(|letter| (letter.offset, letter.reason.clone()))
        .collect())
}

/// The payload of a dead letter's event. Bytes are in base64 (RFC 4648, with padding).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Obituary<'a> {
    consumer_group: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<HeaderText>,
}

#[derive(Serialize)]
struct HeaderText {
    name: String,
    value: String,
}

fn obituary(stream: &Stream, letter: &DeadLetter) -> NewEvent {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let text = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
    let payload = Obituary {
        consumer_group: &stream.group,
        topic: &stream.topic,
        partition: stream.partition,
        offset: letter.offset,
        reason: &letter.reason,
        key: letter.key.as_ref().map(text),
        value: letter.value.as_ref().map(text),
        headers: letter
            .headers
            .iter()
            .map(|(name, value)| HeaderText {
                name: text(name),
                value: text(value),
            })
            .collect(),
    };
    NewEvent {
        event_id: EventId::generate(),
        topic: format!("{}.dlq", stream.topic),
        key: format!("{}/{}/{}", stream.topic, stream.partition, letter.offset),
        event_type: "DeadLettered".to_owned(),
        schema_version: 1,
        payload: serde_json::to_string(&payload).expect("text and whole numbers only"),
        headers: std::collections::BTreeMap::new(),
    }
}
