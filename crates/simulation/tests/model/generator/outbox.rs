//! Operations on the outbox.

use std::collections::BTreeMap;

use domain::Slot;
use rand::RngExt;
use rand::seq::IndexedRandom;
use simulation::database::{Database, LeaseRow};
use storage::outbox::{BatchLimits, Destination, Done, HoldCause, ReplayBounds, TopicKey};

use super::{Generator, KEYS, leases};
use crate::operation::{Operation as O, SLOTS, Seen, ToHold, slots};
use crate::run::{ModelRun, SESSIONS};

impl Generator {
    pub(super) fn append(&mut self) -> O {
        let count = self.random.random_range(1..4);
        let first = self.next_event;
        self.next_event += count;
        let mut event = || (self.topic(), self.key());
        O::Append(first, (0..count).map(|_| event()).collect())
    }

    pub(super) fn of_outbox(&mut self, run: &ModelRun) -> O {
        match self.random.random_range(0..100) {
            0..10 => self.append(),
            10..30 => O::Read(self.some_slots(), self.limits()),
            30..38 => self.settle(run),
            38..57 => self.hold(run),
            57..66 => self.move_back(run),
            66..69 => self.lock_key(run),
            69..72 => O::Redrive(self.held_keys(run)),
            72..81 => {
                let dead = held(run, |cause| cause == HoldCause::Dead);
                let dead: Vec<i64> = dead.into_iter().map(|(id, _)| id).collect();
                let only = dead.choose(&mut self.random).copied();
                O::Discard(self.held_keys(run), only.filter(|_| self.chance(50)))
            }
            81..85 => O::Replay(self.bounds(), self.after(), self.size()),
            85..88 => {
                let done = *self.pick(&[Done::Published, Done::Discarded]);
                O::Clean(done, self.age(), self.after(), self.size())
            }
            _ => self.look_at_outbox(run),
        }
    }

    fn look_at_outbox(&mut self, run: &ModelRun) -> O {
        match self.random.random_range(0..11) {
            0 => O::Groups(self.some_slots()),
            1 => O::DeadKeys,
            2 => O::Replayable(self.bounds(), self.after(), self.size()),
            3 => O::Backlog(self.size()),
            4 => O::HeldCounts(self.size()),
            5 => O::LowestPending(self.some_slots()),
            6 => {
                let seen = self.some_seen(run, 5).into_iter();
                O::StillWaiting(seen.map(|seen| (seen.slot, seen.id)).collect())
            }
            7 => O::SlotsToWatch(self.member()),
            8 => O::OldestByState,
            9 => O::UnpublishedOlderThan(self.age()),
            _ => O::Verify,
        }
    }

    fn limits(&mut self) -> BatchLimits {
        let mut of = |small: &[i64]| {
            if self.random.random_bool(0.2) {
                *small.choose(&mut self.random).expect("some")
            } else {
                1_000
            }
        };
        BatchLimits {
            events: of(&[1, 2, 3]),
            bytes: of(&[1, 10, 40]),
            total_bytes: of(&[1, 30, 60]),
            event_bytes: of(&[4, 20]),
        }
    }

    fn settle(&mut self, run: &ModelRun) -> O {
        let seen = self.some_seen(run, 3).into_iter();
        O::Settle(
            seen.map(|s| (s, self.random.random_range(0..100)))
                .collect(),
        )
    }

    fn hold(&mut self, run: &ModelRun) -> O {
        let seen = self.some_seen(run, 3);
        let leases: Vec<(i32, LeaseRow)> = leases(run, SLOTS);
        let owner = seen.first().and_then(|seen| {
            let unit = i32::from(seen.slot.number());
            leases.iter().find(|(of, _)| *of == unit)?.1.owner
        });
        let member = self.most_often(owner);
        let mut to_hold = Vec::new();
        let blocked = seen.iter().any(|seen| seen.blocked);
        let one_cause = (!blocked && self.chance(50)).then_some(HoldCause::Unavailable);
        for seen in seen {
            let unit = i32::from(seen.slot.number());
            let lease = leases.iter().find(|(of, _)| *of == unit);
            let cause = match one_cause {
                Some(cause) => cause,
                None if seen.blocked && self.chance(90) => HoldCause::Blocked,
                None if self.chance(80) => HoldCause::Dead,
                None if self.chance(70) => HoldCause::Blocked,
                None => HoldCause::Unavailable,
            };
            to_hold.push(ToHold {
                seen,
                epoch: self.near(lease.map_or(0, |(_, row)| row.epoch)),
                cause,
                destination: self.destination(),
            });
        }
        O::Hold(member, to_hold)
    }

    fn move_back(&mut self, run: &ModelRun) -> O {
        let unavailable = held(run, |cause| cause == HoldCause::Unavailable);
        let row = unavailable
            .choose(&mut self.random)
            .map(|(_, row)| row.clone());
        let (slot, topic, destination) = match row {
            Some((slot, topic, _, destination)) => (slot, topic, destination),
            None => (Database::slot("k0"), "t0".to_owned(), self.destination()),
        };
        let leases = leases(run, SLOTS);
        let lease = leases
            .iter()
            .find(|(unit, _)| *unit == i32::from(slot.number()));
        let (owner, epoch) = lease.map_or((None, 0), |(_, row)| (row.owner, row.epoch));
        let mut destinations = vec![destination];
        let other = self.destination();
        if other != destination && self.chance(50) {
            destinations.push(other);
        }
        O::MoveBack {
            member: self.most_often(owner),
            unit: (slot, self.near(epoch)),
            topic,
            destinations,
            lowest: self.random.random_range(0..4),
            limit: self.random.random_range(1..3),
        }
    }

    fn lock_key(&mut self, run: &ModelRun) -> O {
        let mut keys = self.held_keys(run);
        let key = keys.remove(0);
        O::LockKey(key.topic, key.key)
    }

    /// What was read, mostly of late, no id twice.
    fn some_seen(&mut self, run: &ModelRun, most: usize) -> Vec<Seen> {
        let count = self.random.random_range(1..=most);
        let seen = if self.chance(75) {
            let pending: BTreeMap<_, _> = run.database.pending().collect();
            let current = run.seen.iter().filter(|seen| {
                let row = pending.get(&(seen.slot.number(), seen.id));
                row.is_some_and(|row| row.version == run.versions[seen.nth])
            });
            current.cloned().collect()
        } else {
            run.seen.clone()
        };
        let mut found: Vec<Seen> = Vec::new();
        for _ in 0..count {
            if let Some(seen) = seen.choose(&mut self.random)
                && found.iter().all(|found| found.id != seen.id)
            {
                found.push(seen.clone());
            }
        }
        found
    }

    fn held_keys(&mut self, run: &ModelRun) -> Vec<TopicKey> {
        let rows = held(run, |cause| cause != HoldCause::Unavailable);
        let mut keys: Vec<TopicKey> = rows
            .into_iter()
            .map(|(_, (_, topic, key, _))| TopicKey { topic, key })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() || self.chance(15) {
            keys = vec![TopicKey {
                topic: self.topic(),
                key: self.key(),
            }];
        }
        let count = self.random.random_range(1..=keys.len().min(2));
        let start = self.random.random_range(0..=keys.len() - count);
        keys[start..start + count].to_vec()
    }

    fn bounds(&mut self) -> ReplayBounds {
        let topic = self.chance(30).then(|| self.topic());
        let key = self.chance(30).then(|| self.key());
        ReplayBounds {
            from: None,
            to: None,
            topic,
            key,
            from_id: self.chance(30).then(|| self.random.random_range(0..10)),
            to_id: self.chance(30).then(|| self.random.random_range(5..30)),
        }
    }

    fn some_slots(&mut self) -> Vec<Slot> {
        if self.chance(70) {
            return Slot::all().collect();
        }
        let mut slots = slots(&KEYS);
        slots.reverse();
        slots.truncate(self.random.random_range(1..3));
        slots
    }

    fn destination(&mut self) -> Destination {
        let all = [(6, 1), (6, 1), (6, 1), (6, 1), (6, 2), (4, 1), (0, -1)];
        let (partition_count, partition) = *self.pick(&all);
        Destination {
            partition_count,
            partition,
        }
    }
}

/// Whether Postgres locks the same whatever its plan: where a part of a hold finds nothing to hold, it
/// may or may not have locked the lease.
pub(super) fn is_certain(run: &mut ModelRun, session: usize, operation: &O) -> bool {
    let O::Hold(_, to_hold) = operation else {
        return true;
    };
    let alone = (0..SESSIONS).all(|s| s == session || run.transaction(s).is_none());
    if alone && run.database.prepared().next().is_none() {
        return true;
    }
    let found = |hold: &&ToHold| {
        let seen = &hold.seen;
        let mut pending = run.database.pending();
        let mut held = run.database.held();
        pending.any(|((slot, id), row)| {
            (*slot, *id) == (seen.slot.number(), seen.id) && row.version == run.versions[seen.nth]
        }) && (hold.cause != HoldCause::Blocked
            || held.any(|(id, row)| {
                *id < seen.id && row.blocks() && (&row.topic, &row.key) == (&seen.topic, &seen.key)
            }))
    };
    let (blocked, others): (Vec<&ToHold>, Vec<&ToHold>) = to_hold
        .iter()
        .partition(|hold| hold.cause == HoldCause::Blocked);
    let certain = |part: Vec<&ToHold>| part.is_empty() || part.iter().any(found);
    certain(blocked) && certain(others)
}

type Held = (i64, (Slot, String, String, Destination));

fn held(run: &ModelRun, of: impl Fn(HoldCause) -> bool) -> Vec<Held> {
    let rows = run.database.held();
    rows.filter(|(_, row)| of(row.cause))
        .map(|(id, row)| {
            let slot = Slot::try_from(i32::from(row.slot)).expect("a slot");
            (
                *id,
                (slot, row.topic.clone(), row.key.clone(), row.destination),
            )
        })
        .collect()
}
