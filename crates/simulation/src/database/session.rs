//! Sessions: how transactions begin and end.

use super::Connection;
use super::call::Call;
use super::error::DatabaseError;
use super::transaction::{Transaction, TransactionId};
use super::writer::Pause;

/// A connection to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(super) u64);

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) transaction: Option<TransactionId>,
    pub(super) call: Option<Call>,
}

impl Connection<'_> {
    /// The same, whose next operation answers [`DatabaseError::Paused`] after that many things it does:
    /// beginning a statement (with its snapshot), taking a lock, changing a row. A server runs many
    /// statements at once; so others may come between any two.
    #[must_use]
    pub fn pausing_after(mut self, things: u32) -> Self {
        self.pause = Pause::after(things);
        self
    }

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
        assert!(!transaction.waits(), "a statement waits");
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

    pub(super) fn session_mut(&mut self) -> &mut Session {
        let session = self.database.sessions.get_mut(&self.session);
        session.expect("the session is open")
    }

    pub(super) fn start(&mut self, implicit: bool) -> TransactionId {
        let transaction = Transaction::new(self.now, implicit);
        let id = self.database.start(transaction);
        self.session_mut().transaction = Some(id);
        id
    }
}
