//! Sorts the records of a batch into events to apply, copies, dead letters and blocked records.
//! Pure: the caller passes in what the database knows.

use std::collections::{HashMap, HashSet};

use domain::{EventId, Received};
use messaging::IncomingRecord;
use storage::inbox::dead_letters::{Cause, DeadLetter, Stored};

use crate::apply::decode::Decoded;
use crate::apply::effects::Candidate;
use crate::handlers::Event;

/// Why a record that is not at fault itself is held.
pub(crate) const WAITS: &str = "blocked by a dead letter of its key";

/// A sorted batch. Indexes are those in the batch.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Good ones, copies included, in order.
    pub(crate) events: Vec<(usize, Received<Event>)>,
    /// Each good event once, ascending, with the offset of its newest copy in this batch.
    pub(crate) newest: Vec<(EventId, i64)>,
    pub(crate) dead: Vec<(usize, String)>,
    pub(crate) blocked: Vec<usize>,
    /// Delivered again, and held or settled since the first time.
    pub(crate) settled: usize,
}

/// `held` are the keys that are held back already; a dead record holds back its key from there on.
pub(crate) fn sort(
    batch: &[Decoded],
    mut held: HashSet<Vec<u8>>,
    held_before: &[Stored],
) -> Sorted {
    let held_before: HashMap<i64, &Stored> =
        held_before.iter().map(|row| (row.offset, row)).collect();
    let mut sorted = Sorted::default();
    let mut newest = HashMap::new();
    for (place, decoded) in batch.iter().enumerate() {
        let record = &decoded.record;
        let same = held_before
            .get(&record.offset)
            .is_some_and(|row| is_same(row, record));
        if same {
            sorted.settled += 1;
            continue;
        }
        let key = record.key.as_ref();
        if key.is_some_and(|key| held.contains(key)) {
            sorted.blocked.push(place);
            continue;
        }
        match &decoded.event {
            Ok(received) => {
                newest.insert(received.event_id, received.offset);
                sorted.events.push((place, received.clone()));
            }
            Err(reason) => {
                held.extend(key.cloned());
                sorted.dead.push((place, reason.clone()));
            }
        }
    }
    sorted.newest = newest.into_iter().collect();
    sorted.newest.sort_unstable();
    sorted
}

fn is_same(row: &Stored, record: &IncomingRecord) -> bool {
    let headers = row.header_names.iter().zip(&row.header_values);
    row.key == record.key
        && row.value == record.value
        && row.omitted_bytes == omitted_bytes(record)
        && headers.eq(record
            .all_headers()
            .iter()
            .map(|(name, value)| (name, value)))
}

fn omitted_bytes(record: &IncomingRecord) -> Option<i64> {
    record
        .omitted_bytes
        .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Which events the inbox did not have before.
#[derive(Debug)]
pub(crate) enum New {
    All,
    These(HashSet<EventId>),
}

impl New {
    pub(crate) fn contains(&self, event_id: EventId) -> bool {
        match self {
            Self::All => true,
            Self::These(new) => new.contains(&event_id),
        }
    }
}

/// The good events, split by what the inbox said of them.
#[derive(Debug, Default)]
pub(crate) struct Split {
    /// First copies of new events, with their places.
    pub(crate) fresh: Vec<usize>,
    pub(crate) candidates: Vec<Candidate>,
    /// Copies of events applied earlier, and second copies within the batch.
    pub(crate) duplicates: Vec<(EventId, i64)>,
}

pub(crate) fn split(batch: &[Decoded], events: Vec<(usize, Received<Event>)>, new: &New) -> Split {
    let mut split = Split::default();
    let mut seen = HashSet::new();
    for (place, received) in events {
        if new.contains(received.event_id) && seen.insert(received.event_id) {
            split.fresh.push(place);
            split.candidates.push(Candidate {
                key: batch[place].record.key.clone(),
                received,
            });
        } else {
            split.duplicates.push((received.event_id, received.offset));
        }
    }
    split
}

/// Events the inbox had before, each once.
pub(crate) fn known_before(
    newest: &[(EventId, i64)],
    new: &HashSet<EventId>,
) -> Vec<(EventId, i64)> {
    newest
        .iter()
        .filter(|(event_id, _)| !new.contains(event_id))
        .copied()
        .collect()
}

pub(crate) fn letter(decoded: &Decoded, cause: Cause, reason: String, attempts: i32) -> DeadLetter {
    let record = &decoded.record;
    DeadLetter {
        offset: record.offset,
        event_id: decoded.event_id.map(EventId::as_uuid),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.all_headers(),
        omitted_bytes: omitted_bytes(record),
        cause,
        reason,
        attempts,
    }
}
