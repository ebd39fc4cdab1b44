//! What a failed statement means for the one who asked: try again later, or never.
//!
//! The driver keeps a message and a coarse kind of an error, not its SQLSTATE, and messages come in
//! the server's language. Where the kind does not tell, the connection is asked: if it is dead,
//! Postgres went away; if the schema is incomplete, that was it; else the statement was at fault.

use std::sync::Arc;
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use storage::{Connection, StorageError, migrations, with_timeout};

use super::{StoreError, WorkError};

/// How long asking may take; comes on top of the time the work had.
const ASK_WITHIN: Duration = Duration::from_millis(400);

/// What the kind of an error says.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Postgres was away, silent or busy: the same statement may succeed later.
    Passing,
    /// The statement, or a value, is wrong.
    Lasting,
    /// Either.
    Unclear,
}

/// What `failure` means, as far as it says so itself. For a connection that must not be used.
pub(super) fn without_asking(failure: WorkError) -> StoreError {
    match failure {
        WorkError::Unknown(error, _) => StoreError::OutcomeUnknown {
            reason: error.to_string(),
        },
        WorkError::RolledBack(error) => match kind(&error) {
            Kind::Passing => StoreError::Unavailable(error.to_string()),
            Kind::Lasting | Kind::Unclear => StoreError::Failed(Arc::new(error)),
        },
    }
}

/// What `failure` means. Asks the connection it happened on when it has to.
pub(super) async fn ask(conn: &mut Connection, failure: WorkError) -> StoreError {
    let error = match failure {
        WorkError::RolledBack(error) if kind(&error) == Kind::Unclear => error,
        clear => return without_asking(clear),
    };
    match with_timeout(ASK_WITHIN, migrations::missing(conn)).await {
        Ok(missing) if missing.is_empty() => StoreError::Failed(Arc::new(error)),
        Ok(missing) => StoreError::SchemaIncomplete(missing),
        Err(_) => StoreError::Unavailable(error.to_string()),
    }
}

fn kind(error: &StorageError) -> Kind {
    match error {
        StorageError::Connect { .. } | StorageError::Deadline(_) => Kind::Passing,
        StorageError::Query(DieselError::DatabaseError(kind, _)) => match kind {
            DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::SerializationFailure
            // A server that was a primary and is one no more.
            | DatabaseErrorKind::ReadOnlyTransaction => Kind::Passing,
            _ if error.is_permanent() => Kind::Lasting,
            _ => Kind::Unclear,
        },
        StorageError::Query(_) | StorageError::Unreadable { .. } if error.is_permanent() => {
            Kind::Lasting
        }
        StorageError::Query(_) | StorageError::Unreadable { .. } => Kind::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_says_enough_needs_no_question() {
        let failure = |kind| {
            StorageError::from(DieselError::DatabaseError(
                kind,
                Box::new("a message".to_owned()),
            ))
        };
        for (error, expected) in [
            (StorageError::Deadline(Duration::ZERO), Kind::Passing),
            (
                failure(DatabaseErrorKind::UnableToSendCommand),
                Kind::Passing,
            ),
            (
                failure(DatabaseErrorKind::ReadOnlyTransaction),
                Kind::Passing,
            ),
            (failure(DatabaseErrorKind::CheckViolation), Kind::Lasting),
            (failure(DatabaseErrorKind::Unknown), Kind::Unclear),
            (DieselError::BrokenTransactionManager.into(), Kind::Unclear),
        ] {
            assert_eq!(kind(&error), expected, "{error}");
        }
    }
}
