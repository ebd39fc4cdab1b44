//! Random operations that mean something: most name what is there, some what is not.

mod inbox;
mod leases;
mod outbox;
mod theme;

use std::time::Duration;

use domain::Slot;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use simulation::database::LeaseRow;
use storage::inbox::Stream;
use storage::lease::MemberId;
use storage::outbox::BatchLimits;
use uuid::Uuid;

use self::theme::{THEMES, Theme};
use crate::operation::{GROUP, Operation as O, SLOTS, member, slots};
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
            if begun && operation.is_transaction() || !outbox::is_certain(run, session, &operation)
            {
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

    fn topic(&mut self) -> String {
        let topics = self.theme.topics;
        (*self.pick(&TOPICS[..topics])).to_owned()
    }

    fn key(&mut self) -> String {
        let keys = self.theme.keys;
        (*self.pick(&KEYS[..keys])).to_owned()
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
