//! Transactions, and how a statement runs in one, waits, and is repeated.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Database;
use super::error::DatabaseError;
use super::mutation::Mutation;
use super::rows::Tables;
use super::writer::{Log, Pause, View, Writer};

/// A transaction, from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub(super) u64);

impl TransactionId {
    /// What rows of its writing have as `xmin`.
    pub(super) fn xmin(self) -> u32 {
        // Compared for equality only, as in Postgres, where numbers come again.
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }
}

/// Why a statement ends without a result.
#[derive(Debug)]
pub(super) enum Failure {
    Wait(BTreeSet<TransactionId>),
    Pause,
    UniqueViolation,
}

/// A transaction that has begun.
#[derive(Debug)]
pub(super) struct Transaction {
    /// `now()`.
    pub(super) began: Duration,
    /// Begun by a statement, and ended with it.
    pub(super) implicit: bool,
    pub(super) failed: bool,
    /// Where savepoints were set, the outermost first.
    pub(super) savepoints: Vec<u64>,
    waiting: Option<Waiting>,
}

/// A statement that waits.
#[derive(Debug)]
struct Waiting {
    clock: Duration,
    view: View,
    log: Log,
}

impl Transaction {
    pub(super) fn new(began: Duration, implicit: bool) -> Self {
        Self {
            began,
            implicit,
            failed: false,
            savepoints: Vec::new(),
            waiting: None,
        }
    }

    pub(super) fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// The snapshot of a statement that waits.
    pub(super) fn snapshot(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.view.commit)
    }
}

/// One statement: the tables as its snapshot shows them, and what it needs to change them.
pub(super) struct Statement<'a> {
    pub(super) tables: &'a mut Tables,
    pub(super) writer: Writer<'a>,
    /// `now()`: when the transaction began.
    pub(super) began: Duration,
    /// `clock_timestamp()` at the statement's beginning. What a statement does must not depend on how
    /// long it waited, or it could not be run again.
    pub(super) clock: Duration,
    /// `clock_timestamp()`, for values.
    pub(super) now: Duration,
    pub(super) last_event: &'a mut i64,
    pub(super) mutation: Option<Mutation>,
}

impl Statement<'_> {
    pub(super) fn view(&self) -> View {
        self.writer.view
    }

    pub(super) fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Database {
    pub(super) fn execute<T>(
        &mut self,
        id: TransactionId,
        now: Duration,
        pause: &mut Pause,
        statement: impl FnOnce(&mut Statement<'_>) -> Result<T, Failure>,
    ) -> Result<T, DatabaseError> {
        let (commit, step) = (self.last_commit, self.step);
        let transaction = self.running(id);
        if transaction.failed {
            return Err(DatabaseError::Aborted);
        }
        let began = transaction.began;
        if transaction.waiting.is_none() && pause.is_due() {
            return Err(DatabaseError::Paused);
        }
        let mut waiting = transaction.waiting.take().unwrap_or(Waiting {
            clock: now,
            view: View {
                transaction: id,
                commit,
                step,
            },
            log: Log::default(),
        });
        waiting.log.rewind();
        self.locks.resume(id);
        let result = statement(&mut Statement {
            tables: &mut self.tables,
            writer: Writer {
                locks: &mut self.locks,
                view: waiting.view,
                log: &mut waiting.log,
                pause,
                step: &mut self.step,
                last_row: &mut self.last_row,
            },
            began,
            clock: waiting.clock,
            now,
            last_event: &mut self.last_event,
            mutation: self.mutation,
        });
        match result {
            Ok(result) => Ok(result),
            Err(Failure::Wait(blockers)) => {
                let first = *blockers.first().expect("somebody is waited for");
                if self.locks.wait(id, blockers) {
                    self.fail(id);
                    return Err(DatabaseError::Deadlock);
                }
                self.running(id).waiting = Some(waiting);
                Err(DatabaseError::Blocked(first))
            }
            Err(Failure::Pause) => {
                self.running(id).waiting = Some(waiting);
                Err(DatabaseError::Paused)
            }
            Err(Failure::UniqueViolation) => {
                self.fail(id);
                Err(DatabaseError::UniqueViolation)
            }
        }
    }

    /// A statement failed: what the innermost subtransaction did is undone at once.
    pub(super) fn fail(&mut self, id: TransactionId) {
        let transaction = self.running(id);
        transaction.failed = true;
        let step = transaction.savepoints.last().copied().unwrap_or(0);
        self.undo(id, step);
    }

    pub(super) fn undo(&mut self, id: TransactionId, step: u64) {
        self.running(id).waiting = None;
        self.ended += 1;
        self.tables.undo(id, step);
        self.locks.release(id, step);
    }

    pub(super) fn running(&mut self, id: TransactionId) -> &mut Transaction {
        let transaction = self.transactions.get_mut(&id);
        transaction.expect("the transaction is running")
    }
}
