//! Sessions and their transactions: how a statement runs, waits, and is repeated.

use std::any::Any;
use std::collections::BTreeSet;
use std::time::Duration;

use super::error::DatabaseError;
use super::mutation::Mutation;
use super::rows::Tables;
use super::writer::{Log, View, Writer};
use super::{Connection, Database};

/// A connection to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(super) u64);

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
    UniqueViolation,
}

/// A transaction that has begun.
#[derive(Debug)]
pub(super) struct Transaction {
    /// `now()`.
    pub(super) began: Duration,
    /// Begun by a statement, and ended with it.
    implicit: bool,
    failed: bool,
    /// Where savepoints were set, the outermost first.
    savepoints: Vec<u64>,
    waiting: Option<Waiting>,
}

/// A statement that waits.
#[derive(Debug)]
struct Waiting {
    view: View,
    log: Log,
}

impl Transaction {
    /// The snapshot of a statement that waits.
    pub(super) fn snapshot(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.view.commit)
    }
}

/// A call of several statements that waits, with what those said that are done.
#[derive(Debug)]
struct Call {
    name: &'static str,
    done: Vec<Box<dyn Any + Send>>,
    /// The statement of the next [`Connection::step`].
    next: usize,
    /// It began the transaction and ends it.
    owns_transaction: bool,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) transaction: Option<TransactionId>,
    call: Option<Call>,
}

/// One statement: the tables as its snapshot shows them, and what it needs to change them.
pub(super) struct Statement<'a> {
    pub(super) tables: &'a mut Tables,
    pub(super) writer: Writer<'a>,
    /// `now()`: when the transaction began.
    pub(super) began: Duration,
    /// `clock_timestamp()`.
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

impl Connection<'_> {
    /// Begins a transaction. Without one, each operation is a transaction of its own.
    ///
    /// # Panics
    /// When one has begun already.
    pub fn begin(&mut self) {
        assert!(
            self.transaction().is_none(),
            "no transaction inside another"
        );
        self.start(false);
    }

    /// The transaction that has begun.
    pub fn transaction(&self) -> Option<TransactionId> {
        self.session().transaction
    }

    /// Ends the transaction.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`] when a statement of it failed: it is rolled back.
    ///
    /// # Panics
    /// When none has begun, or a statement of it waits.
    pub fn commit(&mut self) -> Result<(), DatabaseError> {
        let id = self.transaction().expect("a transaction has begun");
        let transaction = self.database.running(id);
        assert!(transaction.waiting.is_none(), "a statement waits");
        let failed = transaction.failed;
        self.session_mut().transaction = None;
        if failed {
            self.database.roll_back(id);
            return Err(DatabaseError::Aborted);
        }
        self.database.commit(id);
        Ok(())
    }

    /// Ends the transaction, if one has begun, and what waits in it. Nothing of it happened.
    pub fn rollback(&mut self) {
        let session = self.session_mut();
        session.call = None;
        if let Some(id) = session.transaction.take() {
            self.database.roll_back(id);
        }
    }

    /// Sets a savepoint inside the transaction.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`] when a statement of the transaction failed.
    ///
    /// # Panics
    /// When no transaction has begun.
    pub fn savepoint(&mut self) -> Result<(), DatabaseError> {
        self.database.step += 1;
        let step = self.database.step;
        let id = self.transaction().expect("a transaction has begun");
        let transaction = self.database.running(id);
        if transaction.failed {
            return Err(DatabaseError::Aborted);
        }
        transaction.savepoints.push(step);
        Ok(())
    }

    /// Takes back what happened since the innermost savepoint, and removes it.
    ///
    /// # Panics
    /// When there is none.
    pub fn rollback_to_savepoint(&mut self) {
        let id = self.transaction().expect("a transaction has begun");
        let step = self.database.running(id).savepoints.pop();
        let step = step.expect("a savepoint is set");
        self.database.undo(id, step);
        self.database.running(id).failed = false;
        self.session_mut().call = None;
    }

    /// Removes the innermost savepoint; what happened since then stays.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`] when a statement failed since then.
    ///
    /// # Panics
    /// When there is none.
    pub fn release_savepoint(&mut self) -> Result<(), DatabaseError> {
        let id = self.transaction().expect("a transaction has begun");
        let transaction = self.database.running(id);
        if transaction.failed {
            return Err(DatabaseError::Aborted);
        }
        transaction.savepoints.pop().expect("a savepoint is set");
        Ok(())
    }

    /// The first phase of a two-phase commit: the transaction no longer belongs to this session and
    /// keeps its locks until [`Database::commit_prepared`] or [`Database::rollback_prepared`].
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`] when a statement of it failed: it is rolled back.
    ///
    /// # Panics
    /// When none has begun.
    pub fn prepare(&mut self, name: &str) -> Result<(), DatabaseError> {
        let id = self.session_mut().transaction.take();
        let id = id.expect("a transaction has begun");
        if self.database.running(id).failed {
            self.database.roll_back(id);
            return Err(DatabaseError::Aborted);
        }
        self.database.prepared.insert(name.to_owned(), id);
        Ok(())
    }

    /// Ends an operation that waits, as `lock_timeout`, `statement_timeout` or a cancel request do: its
    /// transaction is aborted, or gone if the operation had begun it.
    pub fn cancel(&mut self) {
        let owns = self.session_mut().call.take();
        let Some(id) = self.transaction() else { return };
        let implicit = self.database.running(id).implicit;
        if implicit || owns.is_some_and(|call| call.owns_transaction) {
            self.rollback();
        } else {
            self.database.fail(id);
        }
    }

    fn session(&self) -> &Session {
        let session = self.database.sessions.get(&self.session);
        session.expect("the session is open")
    }

    fn session_mut(&mut self) -> &mut Session {
        let session = self.database.sessions.get_mut(&self.session);
        session.expect("the session is open")
    }

    fn start(&mut self, implicit: bool) -> TransactionId {
        let transaction = Transaction {
            began: self.now,
            implicit,
            failed: false,
            savepoints: Vec::new(),
            waiting: None,
        };
        let id = self.database.start(transaction);
        self.session_mut().transaction = Some(id);
        id
    }

    /// Runs one statement, in the transaction that has begun or in one of its own.
    pub(super) fn run<T>(
        &mut self,
        statement: impl FnOnce(&mut Statement<'_>) -> Result<T, Failure>,
    ) -> Result<T, DatabaseError> {
        let id = match self.transaction() {
            Some(id) => id,
            None => self.start(true),
        };
        let implicit = self.database.running(id).implicit;
        let result = self.database.execute(id, self.now, statement);
        match result {
            Err(DatabaseError::Blocked(_)) => {}
            Err(_) if implicit => self.rollback_implicit(id),
            Ok(_) if implicit => {
                self.session_mut().transaction = None;
                self.database.commit(id);
            }
            _ => {}
        }
        result
    }

    fn rollback_implicit(&mut self, id: TransactionId) {
        self.session_mut().transaction = None;
        self.database.roll_back(id);
    }

    /// A call of several statements, each by [`Connection::step`]. Called again after it waited, it
    /// goes on at the statement that waits.
    pub(super) fn call<T>(
        &mut self,
        name: &'static str,
        scope: Scope,
        statements: impl FnOnce(&mut Self) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        if let Some(call) = &mut self.session_mut().call {
            assert_eq!(
                call.name, name,
                "a call that waits is repeated or cancelled"
            );
            call.next = 0;
        } else {
            let owns_transaction = scope == Scope::Transaction;
            if owns_transaction {
                self.begin();
            }
            self.session_mut().call = Some(Call {
                name,
                done: Vec::new(),
                next: 0,
                owns_transaction,
            });
        }
        let result = statements(self);
        if matches!(result, Err(DatabaseError::Blocked(_))) {
            return result;
        }
        let call = self.session_mut().call.take();
        if call.is_some_and(|call| call.owns_transaction) {
            if result.is_ok() {
                self.commit()?;
            } else {
                self.rollback();
            }
        }
        result
    }

    /// One statement of a [`Connection::call`].
    pub(super) fn step<T: Clone + Send + 'static>(
        &mut self,
        statement: impl FnOnce(&mut Statement<'_>) -> Result<T, Failure>,
    ) -> Result<T, DatabaseError> {
        let call = self.session_mut().call.as_mut().expect("inside a call");
        call.next += 1;
        if let Some(done) = call.done.get(call.next - 1) {
            let done: Option<&T> = done.downcast_ref();
            return Ok(done.expect("the same statements each time").clone());
        }
        let result = self.run(statement)?;
        let call = self.session_mut().call.as_mut().expect("inside a call");
        call.done.push(Box::new(result.clone()));
        Ok(result)
    }
}

/// How the statements of a [`Connection::call`] are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// One transaction, which the call begins.
    Transaction,
    /// Whatever transaction the caller began, else one for each statement.
    Statements,
}

impl Database {
    fn execute<T>(
        &mut self,
        id: TransactionId,
        now: Duration,
        statement: impl FnOnce(&mut Statement<'_>) -> Result<T, Failure>,
    ) -> Result<T, DatabaseError> {
        let (commit, step) = (self.last_commit, self.step);
        let transaction = self.running(id);
        if transaction.failed {
            return Err(DatabaseError::Aborted);
        }
        let began = transaction.began;
        let mut waiting = transaction.waiting.take().unwrap_or(Waiting {
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
                step: &mut self.step,
                last_row: &mut self.last_row,
            },
            began,
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
            Err(Failure::UniqueViolation) => {
                self.fail(id);
                Err(DatabaseError::UniqueViolation)
            }
        }
    }

    /// A statement failed: what the innermost subtransaction did is undone at once.
    fn fail(&mut self, id: TransactionId) {
        let transaction = self.running(id);
        transaction.failed = true;
        let step = transaction.savepoints.last().copied().unwrap_or(0);
        self.undo(id, step);
    }

    fn undo(&mut self, id: TransactionId, step: u64) {
        self.running(id).waiting = None;
        self.tables.undo(id, step);
        self.locks.release(id, step);
    }

    pub(super) fn running(&mut self, id: TransactionId) -> &mut Transaction {
        let transaction = self.transactions.get_mut(&id);
        transaction.expect("the transaction is running")
    }
}
