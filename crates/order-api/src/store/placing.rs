//! Placing an order: the one transaction of this service. After it the order and its event are both
//! there, or neither is, or, told apart from that, nobody knows.

use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::AsyncConnection;
use domain::Order;
use storage::{Connection, StorageError, orders, outbox, within};

use super::Failure;

/// Commits `order` and the event that announces it.
pub(super) async fn place(
    conn: &mut Connection,
    order: Order,
    limit: Duration,
) -> Result<(), Failure> {
    let event = order.created_event();
    let mut committing = false;
    let transaction = conn.transaction(async |conn| {
        orders::insert(conn, std::slice::from_ref(&order)).await?;
        outbox::append(conn, std::slice::from_ref(&event)).await?;
        // From here on a missing answer says nothing about what happened.
        committing = true;
        Ok::<_, StorageError>(())
    });
    let outcome = within(limit, transaction).await;
    outcome.map_err(|error| {
        if committing && !is_refusal(&error) {
            Failure::Unknown(order.id, error)
        } else {
            Failure::Undone(error)
        }
    })
}

/// Whether Postgres said that the commit did not happen. The kinds that diesel does not know are not
/// among them: "terminating connection" is one, and may follow a commit that did happen.
fn is_refusal(error: &StorageError) -> bool {
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
