//! What can go wrong with a statement, and the deadline that every call has.

use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// A statement or a connection that failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Postgres refused or could not be asked.
    #[error("postgres: {0}")]
    Query(#[source] DieselError),
    /// No connection could be made.
    #[error("cannot connect to postgres at {address}: {reason}")]
    Connect {
        address: String,
        reason: String,
        /// Whether trying again would end the same way: Postgres refuses the user, the password or
        /// the database.
        lasting: bool,
    },
    /// No answer in time. The connection must not be used again: a late answer would be taken for
    /// that of the next statement's.
    #[error("postgres gave no answer within {0:?}")]
    Deadline(Duration),
    /// A stored value is none that this program writes.
    #[error("unexpected value in {column}: {reason}")]
    Unreadable {
        column: &'static str,
        reason: String,
    },
}

impl From<DieselError> for StorageError {
    fn from(error: DieselError) -> Self {
        match error {
            // A column that names what it could not read.
            DieselError::DeserializationError(error) => match error.downcast() {
                Ok(unreadable) => *unreadable,
                Err(error) => Self::Query(DieselError::DeserializationError(error)),
            },
            error => Self::Query(error),
        }
    }
}

impl StorageError {
    /// A connection that ended while it was waited for.
    pub fn closed() -> Self {
        let message = "the connection was closed".to_owned();
        Self::Query(DieselError::DatabaseError(
            DatabaseErrorKind::ClosedConnection,
            Box::new(message),
        ))
    }

    /// Whether the statement itself was at fault (a violated constraint, an unreadable value), so
    /// that the same call would fail again; all else is worth another try.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Query(DieselError::DatabaseError(kind, _)) => is_violation(*kind),
            Self::Query(
                DieselError::DeserializationError(_) | DieselError::SerializationError(_),
            )
            | Self::Unreadable { .. } => true,
            Self::Query(_) | Self::Connect { .. } | Self::Deadline(_) => false,
        }
    }
}

/// Whether a statement was refused for what it wanted to store.
pub(super) fn is_violation(kind: DatabaseErrorKind) -> bool {
    matches!(
        kind,
        DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::RestrictViolation
            | DatabaseErrorKind::ExclusionViolation
    )
}

/// Runs one storage call under a deadline.
///
/// # Errors
/// The call's own, or [`StorageError::Deadline`]; drop the connection after that one.
pub async fn with_timeout<T, E: Into<StorageError>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, StorageError> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(StorageError::Deadline(limit)),
    }
}
