//! Why an operation did nothing.

use super::transaction::TransactionId;

/// Why an operation did nothing, or nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// Another transaction has what this one needs. The operation waits: call it again, the same way,
    /// when a transaction has ended, or end it with [`Connection::cancel`].
    ///
    /// [`Connection::cancel`]: super::Connection::cancel
    #[error("waits for {0:?}")]
    Blocked(TransactionId),
    /// The operation has done a part: call it again, the same way, at any moment. Others may come
    /// first. Only after [`Connection::pausing_after`].
    ///
    /// [`Connection::pausing_after`]: super::Connection::pausing_after
    #[error("is not done yet")]
    Paused,
    /// Two transactions wait for each other, and this one is ended.
    #[error("deadlock detected")]
    Deadlock,
    /// A row of that key is there already.
    #[error("duplicate key value violates unique constraint")]
    UniqueViolation,
    /// A statement of this transaction failed: it can only be rolled back.
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    Aborted,
}
