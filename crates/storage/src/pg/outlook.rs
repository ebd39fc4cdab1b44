//! What the kind of an error says of another try, in whatever language the server speaks.
//!
//! diesel keeps a message and a coarse kind of an error, not its SQLSTATE.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::pg::error::{StorageError, is_violation};

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It may: Postgres was away, silent, busy, or not to be written to.
    Passing,
    /// It will not: the statement, or a value, is wrong.
    Lasting,
    /// Either.
    Unclear,
}

impl StorageError {
    /// See [`Outlook`].
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::Connect { .. }
            | Self::Deadline(_)
            | Self::Query(DieselError::DatabaseError(
                DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::SerializationFailure
                // A server that was a primary and is one no more.
                | DatabaseErrorKind::ReadOnlyTransaction,
                _,
            )) => Outlook::Passing,
            Self::Query(_) | Self::Unreadable { .. } if self.is_permanent() => Outlook::Lasting,
            Self::Query(_) | Self::Unreadable { .. } => Outlook::Unclear,
        }
    }

    /// Whether it is certain, when a commit ended with this error, that nothing was committed:
    /// Postgres said so. The kinds that diesel does not know are not among them: "terminating
    /// connection" is one, and may follow a commit that did happen.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Query(DieselError::DatabaseError(kind, _)) => {
                is_violation(*kind)
                    || matches!(
                        kind,
                        DatabaseErrorKind::SerializationFailure
                            | DatabaseErrorKind::ReadOnlyTransaction
                    )
            }
            _ => false,
        }
    }

    /// Whether what was to be inserted is there already.
    pub fn is_duplicate(&self) -> bool {
        matches!(
            self,
            Self::Query(DieselError::DatabaseError(
                DatabaseErrorKind::UniqueViolation,
                _
            ))
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failure(kind: DatabaseErrorKind) -> StorageError {
        DieselError::DatabaseError(kind, Box::new("a message".to_owned())).into()
    }

    #[test]
    fn an_error_says_what_its_kind_does() {
        for (error, expected) in [
            (StorageError::Deadline(Duration::ZERO), Outlook::Passing),
            (
                failure(DatabaseErrorKind::UnableToSendCommand),
                Outlook::Passing,
            ),
            (
                failure(DatabaseErrorKind::ReadOnlyTransaction),
                Outlook::Passing,
            ),
            (failure(DatabaseErrorKind::CheckViolation), Outlook::Lasting),
            (failure(DatabaseErrorKind::Unknown), Outlook::Unclear),
            (
                DieselError::BrokenTransactionManager.into(),
                Outlook::Unclear,
            ),
        ] {
            assert_eq!(error.outlook(), expected, "{error}");
        }
    }

    #[test]
    fn only_a_refusal_by_postgres_makes_a_failed_commit_certain() {
        assert!(failure(DatabaseErrorKind::SerializationFailure).is_refusal());
        assert!(!failure(DatabaseErrorKind::UnableToSendCommand).is_refusal());
        assert!(!failure(DatabaseErrorKind::Unknown).is_refusal());
        assert!(!StorageError::Deadline(Duration::ZERO).is_refusal());
    }
}
