//! How statements run: alone, or several in one call, which may wait in the middle.

use std::any::Any;

use super::Connection;
use super::error::DatabaseError;
use super::transaction::{Failure, Statement, TransactionId};

/// A call of several statements that waits or pauses, with what those said that are done.
#[derive(Debug)]
pub(super) struct Call {
    name: &'static str,
    done: Vec<Box<dyn Any + Send>>,
    /// The statement of the next [`Connection::step`].
    next: usize,
    /// It began the transaction and ends it.
    pub(super) owns_transaction: bool,
}

/// How the statements of a [`Connection::call`] are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// One transaction, which the call begins.
    Transaction,
    /// Whatever transaction the caller began, else one for each statement.
    Statements,
}

impl Connection<'_> {
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
        let result = self
            .database
            .execute(id, self.now, &mut self.pause, statement);
        match result {
            Err(DatabaseError::Blocked(_) | DatabaseError::Paused) => {}
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
        if let Err(DatabaseError::Blocked(_) | DatabaseError::Paused) = result {
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
            let done: Option<&Result<T, DatabaseError>> = done.downcast_ref();
            return done.expect("the same statements each time").clone();
        }
        let result = self.run(statement);
        if !matches!(
            result,
            Err(DatabaseError::Blocked(_) | DatabaseError::Paused)
        ) {
            let call = self.session_mut().call.as_mut().expect("inside a call");
            call.done.push(Box::new(result.clone()));
        }
        result
    }
}
