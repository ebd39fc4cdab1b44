//! What became of work that ends with a commit.

use diesel::result::{DatabaseErrorKind, Error as DieselError};
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

/// Whether Postgres said that the commit did not happen. The kinds that diesel does not know are not
/// among them: "terminating connection" is one, and may follow a commit that did happen.
pub(super) fn is_refusal(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Query(DieselError::DatabaseError(
            DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::RestrictViolation
                | DatabaseErrorKind::ExclusionViolation
                | DatabaseErrorKind::SerializationFailure
                | DatabaseErrorKind::ReadOnlyTransaction,
            _
        ))
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failure(kind: DatabaseErrorKind) -> StorageError {
        DieselError::DatabaseError(kind, Box::new("a message".to_owned())).into()
    }

    #[test]
    fn only_a_refusal_by_postgres_makes_a_failed_commit_certain() {
        assert!(is_refusal(&failure(
            DatabaseErrorKind::SerializationFailure
        )));
        assert!(!is_refusal(&failure(
            DatabaseErrorKind::UnableToSendCommand
        )));
        assert!(!is_refusal(&failure(DatabaseErrorKind::Unknown)));
        assert!(!is_refusal(&StorageError::Deadline(Duration::ZERO)));
    }
}
