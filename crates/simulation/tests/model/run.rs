//! A sequence of operations on the model, with what became of each.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use simulation::database::{Database, DatabaseError, Mutation, SessionId, TransactionId};
use storage::outbox::RowVersion;

use crate::answer::Answer;
use crate::on_model::{on_model, on_prepared};
use crate::operation::{Operation, Seen};

pub(crate) const SESSIONS: usize = 4;

/// What became of an operation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Done(Answer),
    /// It waits for another session.
    Waits,
    /// It would end in a deadlock, or wait beside another one so that nobody could tell which of them
    /// goes on first. Not tried: the session's transaction is rolled back instead.
    Avoided,
}

/// An operation, what became of it, and which operations that waited went on because of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) session: usize,
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    pub(crate) resumed: Vec<(usize, Answer)>,
}

#[derive(Debug)]
struct Waiter {
    session: usize,
    operation: Operation,
    blockers: BTreeSet<TransactionId>,
}

#[derive(Debug)]
pub(crate) struct ModelRun {
    pub(crate) database: Database,
    sessions: Vec<SessionId>,
    now: Duration,
    waiters: Vec<Waiter>,
    /// Where operations pause, so that others come between; nowhere when `None`.
    pauses: Option<StdRng>,
    /// Of every pending row that was read, in the order of reading.
    pub(crate) versions: Vec<RowVersion>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) savepoints: [usize; SESSIONS],
    /// Their transaction is aborted.
    pub(crate) failed: [bool; SESSIONS],
}

impl ModelRun {
    pub(crate) fn new(mutation: Option<Mutation>) -> Self {
        let mut database = Database::new(mutation);
        Self {
            sessions: (0..SESSIONS).map(|_| database.connect()).collect(),
            database,
            now: Duration::ZERO,
            waiters: Vec::new(),
            pauses: None,
            versions: Vec::new(),
            seen: Vec::new(),
            savepoints: [0; SESSIONS],
            failed: [false; SESSIONS],
        }
    }

    /// The same, whose operations pause at random.
    pub(crate) fn with_pauses(self, random: StdRng) -> Self {
        Self {
            pauses: Some(random),
            ..self
        }
    }

    pub(crate) fn transaction(&mut self, session: usize) -> Option<TransactionId> {
        let id = self.sessions[session];
        self.database.on(id, self.now).transaction()
    }

    pub(crate) fn waits(&self, session: usize) -> bool {
        self.waiters.iter().any(|waiter| waiter.session == session)
    }

    /// The sessions that others wait for, and whether one of them does not wait for long.
    pub(crate) fn blocking(&self) -> (Vec<usize>, bool) {
        let blockers = self.waiters.iter().flat_map(|waiter| &waiter.blockers);
        let sessions = blockers.filter_map(|blocker| self.database.session_of(*blocker));
        let place = |id| self.sessions.iter().position(|session| *session == id);
        let impatient = |waiter: &Waiter| waiter.operation.is_transaction();
        (
            sessions.filter_map(place).collect(),
            self.waiters.iter().any(impatient),
        )
    }

    pub(crate) fn step(&mut self, session: usize, operation: Operation) -> Step {
        // The clock moves between any two operations, as a real one does.
        self.now += Duration::from_micros(1);
        let outcome = match &operation {
            Operation::TimePasses(by) => {
                self.now += *by;
                Outcome::Done(Answer::of(()))
            }
            Operation::Cancel => Outcome::Done(self.cancel(session)),
            Operation::CommitPrepared(_) | Operation::RollbackPrepared(_) => {
                Outcome::Done(on_prepared(&mut self.database, &operation))
            }
            _ => self.execute(session, &operation),
        };
        if let Outcome::Done(answer) = &outcome {
            self.learn(session, &operation, answer);
        }
        if outcome == Outcome::Avoided {
            let id = self.sessions[session];
            self.database.on(id, self.now).rollback();
            (self.savepoints[session], self.failed[session]) = (0, false);
        }
        Step {
            session,
            operation,
            outcome,
            resumed: self.resume(),
        }
    }

    fn cancel(&mut self, session: usize) -> Answer {
        self.waiters.retain(|waiter| waiter.session != session);
        self.database.on(self.sessions[session], self.now).cancel();
        self.failed[session] = self.transaction(session).is_some();
        said(CANCELLED)
    }

    fn execute(&mut self, session: usize, operation: &Operation) -> Outcome {
        match self.ask(session, operation) {
            Ok(answer) => Outcome::Done(answer),
            Err(DatabaseError::Blocked(_) | DatabaseError::Paused) => {
                let blockers = self.blockers(session);
                if !self.may_wait(operation, &blockers) {
                    return Outcome::Avoided;
                }
                self.waiters.push(Waiter {
                    session,
                    operation: operation.clone(),
                    blockers,
                });
                Outcome::Waits
            }
            Err(DatabaseError::Deadlock) => Outcome::Avoided,
            Err(error) => Outcome::Done(failure(error)),
        }
    }

    fn ask(&mut self, session: usize, operation: &Operation) -> Result<Answer, DatabaseError> {
        let mut connection = self.database.on(self.sessions[session], self.now);
        if let Some(random) = &mut self.pauses
            && random.random_bool(0.5)
        {
            connection = connection.pausing_after(random.random_range(0..10));
        }
        on_model(&mut connection, operation, &self.versions)
    }

    fn blockers(&self, session: usize) -> BTreeSet<TransactionId> {
        self.database.waits_for(self.sessions[session]).collect()
    }

    /// Two that wait for the same transaction go on at once when it ends, in any order, but for those
    /// that stand in line for an advisory lock.
    fn may_wait(&self, operation: &Operation, blockers: &BTreeSet<TransactionId>) -> bool {
        self.waiters.iter().all(|waiter| {
            waiter.blockers.is_disjoint(blockers)
                || (waiter.operation.stands_in_line() && operation.stands_in_line())
        })
    }

    /// Lets those go on that can.
    fn resume(&mut self) -> Vec<(usize, Answer)> {
        let mut resumed = Vec::new();
        let mut next = 0;
        while next < self.waiters.len() {
            let (session, operation) = {
                let waiter = &self.waiters[next];
                (waiter.session, waiter.operation.clone())
            };
            let answer = match self.ask(session, &operation) {
                Ok(answer) => answer,
                Err(DatabaseError::Blocked(_) | DatabaseError::Paused) => {
                    self.waiters[next].blockers = self.blockers(session);
                    next += 1;
                    continue;
                }
                Err(error) => failure(error),
            };
            self.waiters.remove(next);
            self.learn(session, &operation, &answer);
            resumed.push((session, answer));
            next = 0;
        }
        resumed
    }

    fn learn(&mut self, session: usize, operation: &Operation, answer: &Answer) {
        let first = self.versions.len();
        let seen = answer.seen.iter().enumerate();
        self.seen.extend(seen.map(|(nth, seen)| Seen {
            nth: first + nth,
            ..seen.clone()
        }));
        self.versions.extend(&answer.versions);
        match operation {
            Operation::Savepoint if !is_failure(answer) => self.savepoints[session] += 1,
            Operation::RollbackToSavepoint => {
                self.savepoints[session] -= 1;
                self.failed[session] = false;
            }
            Operation::ReleaseSavepoint if !is_failure(answer) => self.savepoints[session] -= 1,
            Operation::RecordUnmet(..) if answer.text == "false" => {
                self.failed[session] = self.transaction(session).is_some();
            }
            Operation::Commit | Operation::Rollback | Operation::Prepare(_) => {
                (self.savepoints[session], self.failed[session]) = (0, false);
            }
            _ if answer.text == DEADLOCK => {
                self.failed[session] = self.transaction(session).is_some();
            }
            _ => {}
        }
    }
}

pub(crate) const ABORTED: &str = "the transaction is aborted";
pub(crate) const DEADLOCK: &str = "deadlock";
pub(crate) const CANCELLED: &str = "cancelled";

fn is_failure(answer: &Answer) -> bool {
    [ABORTED, DEADLOCK].contains(&answer.text.as_str())
}

fn failure(error: DatabaseError) -> Answer {
    match error {
        DatabaseError::Aborted => said(ABORTED),
        DatabaseError::Deadlock => said(DEADLOCK),
        error => said(&error.to_string()),
    }
}

pub(crate) fn said(text: &str) -> Answer {
    Answer {
        text: text.to_owned(),
        ..Answer::default()
    }
}
