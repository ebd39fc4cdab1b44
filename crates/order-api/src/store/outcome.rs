//! What became of work that ends with a commit.

use storage::StorageError;
use storage::idempotency::KeptAnswer;

use super::StoreError;

/// What became of an order that was to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It is committed.
    New,
    /// Its key had been used for the same request, which was answered with this. It was not placed.
    Replayed(KeptAnswer),
}

/// What becomes of one order when the transaction commits.
pub(super) type Decision = Result<Placed, StoreError>;

/// How a piece of work on a connection failed.
pub(super) enum WorkError {
    /// Nothing was done.
    RolledBack(StorageError),
    /// The commit has, or has not, happened.
    Unknown(StorageError, Vec<Decision>),
}

impl From<StorageError> for WorkError {
    fn from(error: StorageError) -> Self {
        Self::RolledBack(error)
    }
}
