//! Random operations that mean something: most name what is there, some what is not.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::{EventId, Slot};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use simulation::database::{Database, LeaseRow};
use storage::inbox::dead_letters::{Cause, Ending};
use storage::inbox::{Progress, Stream};
use storage::lease::MemberId;
use storage::outbox::{BatchLimits, Destination, Done, HoldCause, ReplayBounds, TopicKey};
use uuid::Uuid;

use crate::operation::{
    GROUP, Operation as O, SLOTS, Seen, ToHold, event_id, letter, member, slots,
};
use crate::run::{ModelRun, SESSIONS};

const KEYS: [&str; 3] = ["k0", "k1", "k2"];
const TOPICS: [&str; 2] = ["t0", "t1"];
const HOUR: Duration = Duration::from_hours(1);

const EVERYTHING: BatchLimits = BatchLimits {
    events: 1_000,
    bytes: 1_000,
    total_bytes: 1_000,
    event_bytes: 1_000,
};

/// What a case is mostly about.
#[derive(Debug, Clone, Copy)]
struct Theme {
    /// Of a hundred operations.
    outbox: u32,
    leases: u32,
    inbox: u32,
    begins: u32,
    keys: usize,
    topics: usize,
}

const THEMES: [Theme; 5] = [
    Theme {
        outbox: 90,
        leases: 4,
        inbox: 3,
        begins: 5,
        keys: 1,
        topics: 1,
    },
    Theme {
        outbox: 88,
        leases: 6,
        inbox: 3,
        begins: 10,
        keys: 2,
        topics: 1,
    },
    Theme {
        outbox: 45,
        leases: 18,
        inbox: 23,
        begins: 20,
        keys: 3,
        topics: 2,
    },
    Theme {
        outbox: 10,
        leases: 15,
        inbox: 45,
        begins: 20,
        keys: 3,
        topics: 2,
    },
    Theme {
        outbox: 0,
        leases: 8,
        inbox: 52,
        begins: 40,
        keys: 1,
        topics: 1,
    },
];

pub(crate) struct Generator {
    random: StdRng,
    theme: Theme,
    next_event: u128,
    next_prepared: u32,
}

impl Generator {
    pub(crate) fn new(mut random: StdRng) -> Self {
        Self {
            theme: *THEMES.choose(&mut random).expect("some"),
            random,
            next_event: 1,
            next_prepared: 0,
        }
    }

    /// What every run begins with.
    pub(crate) fn beginning(&mut self) -> Vec<O> {
        let scopes = scopes();
        let mut operations = vec![
            O::EnsureUnits(SLOTS.to_owned(), 32),
            O::EnsureUnits(scopes[1].clone(), 2),
            O::EnsureUnits(scopes[2].clone(), 1),
        ];
        for scope in scopes {
            let units: Vec<(i32, i64)> = units(&scope).into_iter().map(|unit| (unit, 0)).collect();
            operations.push(O::Renew(scope.clone(), member(0)));
            operations.push(O::Claim(scope, member(0), units));
        }
        for stream in streams() {
            operations.push(O::BeginAt(stream, 2, None));
        }
        let slots = Slot::all().collect();
        operations.extend([self.append(), self.append(), O::Read(slots, EVERYTHING)]);
        operations
    }

    /// The next operation of a session that does not wait.
    pub(crate) fn next(&mut self, run: &mut ModelRun) -> (usize, O) {
        let (blocking, hurry) = run.blocking();
        let free: Vec<usize> = blocking.into_iter().filter(|s| !run.waits(*s)).collect();
        if let Some(session) = free.choose(&mut self.random).copied()
            && (hurry || self.chance(40))
        {
            return (session, self.end(run, session));
        }
        let waiting: Vec<usize> = (0..SESSIONS).filter(|s| run.waits(*s)).collect();
        if let Some(session) = waiting.choose(&mut self.random).copied()
            && self.chance(8)
        {
            return (session, O::Cancel);
        }
        let idle: Vec<usize> = (0..SESSIONS).filter(|s| !run.waits(*s)).collect();
        let session = *self.pick(&idle);
        let prepared: Vec<String> = run.database.prepared().map(str::to_owned).collect();
        if let Some(name) = prepared.first()
            && run.transaction(session).is_none()
            && (idle.len() < 2 || self.chance(30))
        {
            let (name, commit) = (name.clone(), self.chance(50));
            let end = if commit {
                O::CommitPrepared(name)
            } else {
                O::RollbackPrepared(name)
            };
            return (session, end);
        }
        let all_idle = (0..SESSIONS).all(|s| run.transaction(s).is_none()) && prepared.is_empty();
        if all_idle && self.chance(12) {
            let minutes = *self.pick(&[10, 40, 90]);
            return (session, O::TimePasses(Duration::from_mins(minutes)));
        }
        (session, self.of_session(run, session))
    }

    fn of_session(&mut self, run: &mut ModelRun, session: usize) -> O {
        let begun = run.transaction(session).is_some();
        if run.failed[session] && self.chance(85) {
            return match run.savepoints[session] {
                0 => O::Rollback,
                _ if self.chance(30) => O::Rollback,
                _ => O::RollbackToSavepoint,
            };
        }
        let nth = self.random.random_range(0..100);
        if !begun && nth < self.theme.begins {
            return O::Begin;
        }
        match nth {
            0..15 if begun => return self.end(run, session),
            15..20 if begun => return O::Savepoint,
            20..23 if run.savepoints[session] > 0 => return O::RollbackToSavepoint,
            23..25 if run.savepoints[session] > 0 => return O::ReleaseSavepoint,
            _ => {}
        }
        loop {
            let nth = self.random.random_range(0..100);
            let Theme {
                outbox,
                leases,
                inbox,
                ..
            } = self.theme;
            let operation = if nth < outbox {
                self.of_outbox(run)
            } else if nth < outbox + leases {
                self.of_leases(run)
            } else if nth < outbox + leases + inbox {
                self.of_inbox(run)
            } else {
                self.of_dead_letters(run)
            };
            if begun && operation.is_transaction() || !is_certain(run, session, &operation) {
                continue;
            }
            return operation;
        }
    }

    fn end(&mut self, run: &ModelRun, session: usize) -> O {
        if run.failed[session] {
            return O::Rollback;
        }
        match self.random.random_range(0..10) {
            0..6 => O::Commit,
            6..9 => O::Rollback,
            _ => {
                self.next_prepared += 1;
                O::Prepare(format!("p{}", self.next_prepared))
            }
        }
    }

    fn append(&mut self) -> O {
        let count = self.random.random_range(1..4);
        let first = self.next_event;
        self.next_event += count;
        let mut event = || (self.topic(), self.key());
        O::Append(first, (0..count).map(|_| event()).collect())
    }

    fn of_outbox(&mut self, run: &ModelRun) -> O {
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

    fn of_leases(&mut self, run: &ModelRun) -> O {
        let scopes = scopes();
        let scope = self.pick(&scopes).clone();
        let rows = leases(run, &scope);
        let units = units(&scope);
        match self.random.random_range(0..100) {
            0..30 => O::Renew(scope, self.member()),
            30..40 => O::Snapshot(scope),
            40..75 => {
                let rows: Vec<_> = rows
                    .into_iter()
                    .filter(|(u, _)| units.contains(u))
                    .collect();
                let mut seen = Vec::new();
                for (unit, row) in rows {
                    if self.chance(70) {
                        seen.push((unit, self.near(row.epoch)));
                    }
                }
                O::Claim(scope, self.member(), seen)
            }
            75..88 => {
                let unit = *self.pick(&units);
                let owner = rows.iter().find(|(of, _)| *of == unit);
                let owner = owner.and_then(|(_, row)| row.owner);
                O::Release(scope, self.most_often(owner), vec![unit])
            }
            88..95 => O::Leave(scope, self.member()),
            _ => O::RemoveExpiredMembers(scope),
        }
    }

    fn of_inbox(&mut self, run: &ModelRun) -> O {
        let streams = streams();
        let stream = self.pick(&streams).clone();
        let mut offsets = run.database.offsets();
        let at = offsets.find(|((_, topic, partition), _)| {
            *topic == stream.topic && *partition == stream.partition
        });
        let progress = at.map_or_else(Progress::default, |(_, progress)| *progress);
        drop(offsets);
        match self.random.random_range(0..100) {
            0..24 => self.fence(run, stream, progress),
            24..36 => O::RecordUnmet(stream, self.records()),
            36..50 => O::Record(stream, self.records()),
            50..58 => O::FollowCopies(stream, self.records()),
            58..63 => O::Unrecord(self.records().into_iter().map(|(id, _)| id).collect()),
            63..73 => {
                let next = Progress {
                    next_offset: progress.next_offset + self.random.random_range(0..3),
                    last_event_id: self.chance(50).then(|| event_id(1)),
                    topic_id: progress.topic_id,
                };
                O::Advance(stream, next)
            }
            73..83 => {
                let target = (*self.pick(&["a", "b"])).to_owned();
                O::Effect(target, event_id(self.random.random_range(0..12)))
            }
            83..85 => O::Progress(stream),
            85..87 => O::NextOffsets(stream.topic),
            87..88 => O::BeginAt(stream, 1, self.topic_id()),
            88..91 => O::Identify(stream, self.near(progress.next_offset), topic_id(1)),
            91..93 => O::Reset(stream, self.random.random_range(0..6), self.topic_id()),
            _ => O::Sweep(stream.topic, self.age(), self.log_starts()),
        }
    }

    fn fence(&mut self, run: &ModelRun, stream: Stream, progress: Progress) -> O {
        let leases = leases(run, &Stream::lease_scope(GROUP, &stream.topic));
        let lease = leases.iter().find(|(unit, _)| *unit == stream.partition);
        let (owner, epoch) = lease.map_or((None, 0), |(_, row)| (row.owner, row.epoch));
        let expected = self.near(progress.next_offset);
        let topic_id = if self.chance(80) {
            progress.topic_id
        } else {
            self.topic_id()
        };
        O::Fence {
            stream,
            offsets: (expected, expected + self.random.random_range(0..4)),
            topic_id,
            owner: self.most_often(owner),
            epoch: self.near(epoch),
        }
    }

    /// No event twice.
    fn records(&mut self) -> Vec<(EventId, i64)> {
        let count = self.random.random_range(1..4);
        let events = rand::seq::index::sample(&mut self.random, 8, count);
        let events = events.into_iter();
        events
            .map(|n| {
                let id = event_id(u128::try_from(n).expect("small"));
                (id, self.random.random_range(0..8))
            })
            .collect()
    }

    fn of_dead_letters(&mut self, run: &ModelRun) -> O {
        let streams = streams();
        let stream = self.pick(&streams).clone();
        let offset = self.random.random_range(0..6);
        let topic = stream.topic.clone();
        match self.random.random_range(0..100) {
            0..25 => {
                let count = self.random.random_range(1..3);
                let offsets = rand::seq::index::sample(&mut self.random, 6, count);
                let letters = offsets.into_iter().map(|offset| {
                    let key = self.letter_key();
                    let cause = *self.pick(&[Cause::Dead, Cause::Blocked]);
                    let offset = i64::try_from(offset).expect("small");
                    letter(offset, key.as_deref(), cause)
                });
                O::HoldLetters(stream, letters.collect())
            }
            25..37 => {
                let keys = ["c0", "c1"].map(|key| key.as_bytes().to_vec());
                O::HeldKeys(stream, keys.to_vec())
            }
            37..42 => O::HeldBefore(stream, (offset, offset + 2)),
            42..50 => O::LockInboxKey(topic, b"c0".to_vec()),
            50..56 => O::UnsettledOfKey(topic, b"c0".to_vec()),
            56..60 => O::UnsettledWithoutKey(stream, offset),
            60..64 => O::KeyOf(stream, offset),
            64..68 => O::UnsettledKeys(topic),
            68..80 => {
                let letters = run.database.dead_letters();
                let mut places: Vec<(i32, i64)> = letters
                    .filter(|((_, of, ..), _)| *of == topic)
                    .map(|((_, _, partition, offset), _)| (*partition, *offset))
                    .collect();
                places.truncate(2);
                places.push((7, 7));
                let ending = *self.pick(&[Ending::Redriven, Ending::Discarded]);
                O::SettleLetters(topic, places, ending)
            }
            80..84 => O::Rejected(stream, offset),
            84..87 => O::ListLetters(topic),
            87..89 => O::CountLetters(topic),
            _ => O::SweepLetters(topic, self.age(), self.log_starts()),
        }
    }

    fn letter_key(&mut self) -> Option<Vec<u8>> {
        let keys = [None, Some("c0"), Some("c0"), Some("c1")];
        self.pick(&keys).map(|key| key.as_bytes().to_vec())
    }

    fn log_starts(&mut self) -> Vec<(i32, i64)> {
        vec![
            (0, self.random.random_range(0..9)),
            (1, self.random.random_range(0..9)),
        ]
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

    fn topic(&mut self) -> String {
        let topics = self.theme.topics;
        (*self.pick(&TOPICS[..topics])).to_owned()
    }

    fn key(&mut self) -> String {
        let keys = self.theme.keys;
        (*self.pick(&KEYS[..keys])).to_owned()
    }

    fn destination(&mut self) -> Destination {
        let all = [(6, 1), (6, 1), (6, 1), (6, 1), (6, 2), (4, 1), (0, -1)];
        let (partition_count, partition) = *self.pick(&all);
        Destination {
            partition_count,
            partition,
        }
    }

    fn member(&mut self) -> MemberId {
        member(self.random.random_range(0..3))
    }

    fn most_often(&mut self, member: Option<MemberId>) -> MemberId {
        let other = self.member();
        member.filter(|_| self.chance(90)).unwrap_or(other)
    }

    /// This number most often, else a neighbour.
    fn near(&mut self, number: i64) -> i64 {
        match self.random.random_range(0..20) {
            0 => number + 1,
            1 => number - 1,
            _ => number,
        }
    }

    fn topic_id(&mut self) -> Option<Uuid> {
        *self.pick(&[None, Some(topic_id(1)), Some(topic_id(2))])
    }

    fn age(&mut self) -> Duration {
        *self.pick(&[Duration::ZERO, HOUR])
    }

    fn after(&mut self) -> Option<i64> {
        self.chance(20).then(|| self.random.random_range(0..6))
    }

    fn size(&mut self) -> i64 {
        *self.pick(&[1, 3, 100])
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        of.choose(&mut self.random)
            .expect("something to choose from")
    }
}

fn topic_id(number: u128) -> Uuid {
    Uuid::from_u128(0x70_0000 + number)
}

fn scopes() -> [String; 3] {
    [
        SLOTS.to_owned(),
        Stream::lease_scope(GROUP, "t0"),
        Stream::lease_scope(GROUP, "t1"),
    ]
}

/// Those that matter here.
fn units(scope: &str) -> Vec<i32> {
    match scope {
        SLOTS => slots(&KEYS)
            .iter()
            .map(|slot| slot.number().into())
            .collect(),
        _ => vec![0, 1],
    }
}

fn streams() -> [Stream; 3] {
    [("t0", 0), ("t0", 1), ("t1", 0)].map(|(topic, partition)| Stream {
        group: GROUP.to_owned(),
        topic: topic.to_owned(),
        partition,
    })
}

fn leases(run: &ModelRun, scope: &str) -> Vec<(i32, LeaseRow)> {
    let rows = run.database.leases();
    let of_scope = rows.filter(|((of, _), _)| of == scope);
    of_scope.map(|((_, unit), row)| (*unit, *row)).collect()
}

/// Whether Postgres locks the same whatever its plan: where a part of a hold finds nothing to hold, it
/// may or may not have locked the lease.
fn is_certain(run: &mut ModelRun, session: usize, operation: &O) -> bool {
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
