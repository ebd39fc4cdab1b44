//! What an operation said, without what differs between a model and a server: row versions and times.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Debug, Write};
use std::hash::Hash;

use storage::inbox::dead_letters::{Listed, Stored};
use storage::lease::{Claim, Snapshot};
use storage::outbox::{
    Backlog, Batch, HeldEvents, LowestPending, PendingEvent, RowVersion, StateAge, UnavailableGroup,
};

use crate::operation::Seen;

/// A result as text, to be compared, and what later operations use of it.
#[derive(Clone, PartialEq, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    /// What a read found, and the versions of its rows.
    pub(crate) seen: Vec<Seen>,
    pub(crate) versions: Vec<RowVersion>,
}

impl Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Answer {
    pub(crate) fn of(value: impl Debug) -> Self {
        Self {
            text: format!("{value:?}"),
            ..Self::default()
        }
    }

    pub(crate) fn batch(batch: &Batch) -> Self {
        let mut text = String::new();
        for pending in &batch.events {
            let event = &pending.event;
            let _ = write!(
                text,
                "[{} in {} {} B blocked by {:?}: {} {} {} {} {:?} {:?}] ",
                pending.id,
                pending.slot.number(),
                pending.bytes,
                pending.blocked_by,
                event.event_id,
                event.topic,
                event.key,
                event.source,
                event.content,
                event.headers
            );
        }
        for large in &batch.oversized {
            let _ = write!(
                text,
                "[{} is too large: {} {}] ",
                large.id, large.topic, large.key
            );
        }
        for orphan in &batch.orphans {
            let _ = write!(text, "[{} is an orphan] ", orphan.id);
        }
        let _ = write!(
            text,
            "{} B {}",
            batch.bytes,
            Self::groups(&batch.groups).text
        );
        let seen = |pending: &PendingEvent| Seen {
            slot: pending.slot,
            id: pending.id,
            topic: pending.event.topic.clone(),
            key: pending.event.key.clone(),
            blocked: pending.blocked_by.is_some(),
            nth: 0,
        };
        Self {
            text,
            seen: batch.events.iter().map(seen).collect(),
            versions: batch.events.iter().map(|event| event.version).collect(),
        }
    }

    pub(crate) fn groups(groups: &[UnavailableGroup]) -> Self {
        let mut groups: Vec<_> = groups
            .iter()
            .map(|g| (g.slot, &g.topic, g.destination, g.lowest))
            .collect();
        groups.sort_unstable();
        Self::of(groups)
    }

    pub(crate) fn held(held: &[HeldEvents]) -> Self {
        let held = held.iter();
        let mut held: Vec<_> = held
            .map(|held| (held.cause.as_str(), held.events))
            .collect();
        held.sort_unstable();
        Self::of(held)
    }

    pub(crate) fn snapshot(snapshot: &Snapshot) -> Self {
        let mut members: Vec<_> = snapshot
            .members
            .iter()
            .map(|member| (member.id, member.expires_in.as_secs() / 60))
            .collect();
        members.sort_unstable();
        Self::of((members, &snapshot.units))
    }

    pub(crate) fn claims(claims: &[Claim]) -> Self {
        let mut claims: Vec<_> = claims.iter().map(|c| (c.unit, c.epoch)).collect();
        claims.sort_unstable();
        Self::of(claims)
    }

    pub(crate) fn backlog(backlog: Backlog) -> Self {
        Self::of((backlog.pending, backlog.oldest_seconds.map(minutes)))
    }

    pub(crate) fn lowest(mut lowest: Vec<LowestPending>) -> Self {
        lowest.sort_unstable_by_key(|lowest| lowest.slot);
        Self::of(lowest)
    }

    pub(crate) fn ages(ages: &[StateAge]) -> Self {
        let mut ages: Vec<_> = ages
            .iter()
            .map(|age| (age.state.as_str(), minutes(age.seconds)))
            .collect();
        ages.sort_unstable();
        Self::of(ages)
    }

    pub(crate) fn set<T: Debug + Ord + Hash>(set: HashSet<T>) -> Self {
        let mut set: Vec<T> = set.into_iter().collect();
        set.sort_unstable();
        Self::of(set)
    }

    pub(crate) fn map<K: Debug + Ord + Hash, V: Debug + Ord>(map: HashMap<K, V>) -> Self {
        let mut map: Vec<(K, V)> = map.into_iter().collect();
        map.sort_unstable();
        Self::of(map)
    }

    pub(crate) fn stored(stored: &[Stored]) -> Self {
        let mut stored: Vec<_> = stored
            .iter()
            .map(|s| {
                let record = (&s.key, &s.value, &s.header_names, &s.header_values);
                (
                    s.partition,
                    s.offset,
                    record,
                    s.omitted_bytes,
                    s.cause.as_str(),
                )
            })
            .collect();
        stored.sort_unstable();
        Self::of(stored)
    }

    pub(crate) fn listed(listed: Vec<Listed>) -> Self {
        let listed = listed.into_iter();
        let listed: Vec<_> = listed
            .map(|l| {
                let place = (l.partition, l.offset, l.event_id, l.key, l.value_bytes);
                (place, l.cause, l.reason, l.attempts, l.settled_as)
            })
            .collect();
        Self::of(listed)
    }
}

#[allow(clippy::cast_possible_truncation)] // ages of minutes
fn minutes(seconds: f64) -> i64 {
    (seconds / 60.0).floor() as i64
}
