//! Placing orders: the one transaction of this service. After it each order is there together with
//! its event, or none of them is, or, told apart from that, nobody knows.
//!
//! Four messages to Postgres, however many orders: `begin`, the two inserts sent together, `commit`.
//! The inserts are not sent before the answer to `begin`, and `commit` not before theirs: a
//! statement whose `begin` was cancelled would commit by itself, an order without its event.

use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::AsyncConnection;
use domain::{NewEvent, Order};
use storage::{Connection, StorageError, orders, within};

use super::Failure;

/// An order and the event that announces it.
#[derive(Debug, Clone)]
pub struct Placement {
    pub order: Order,
    pub event: NewEvent,
}

impl From<Order> for Placement {
    fn from(order: Order) -> Self {
        let event = order.created_event();
        Self { order, event }
    }
}

/// Commits all of `placements`, or none.
///
/// Cancellation: the connection must not be used again.
pub(super) async fn place(
    conn: &mut Connection,
    placements: &[&Placement],
    limit: Duration,
) -> Result<(), Failure> {
    let orders: Vec<&Order> = placements.iter().map(|p| &p.order).collect();
    let events: Vec<&NewEvent> = placements.iter().map(|p| &p.event).collect();
    let mut committing = false;
    let transaction = conn.transaction(async |conn| {
        orders::insert_with_events(conn, &orders, &events).await?;
        // From here on a missing answer says nothing about what happened.
        committing = true;
        Ok::<_, StorageError>(())
    });
    let outcome = within(limit, transaction).await;
    outcome.map_err(|error| {
        if committing && !is_refusal(&error) {
            Failure::Unknown(error)
        } else {
            Failure::Undone(error)
        }
    })
}

/// Whether the commit that `order` was part of has happened, after [`Failure::Unknown`] and on
/// another connection. Changes nothing.
///
/// Looking for the order would not do: the commit may still be under way. Inserting it again waits
/// until it is not, and is then refused if it has happened.
///
/// # Errors
/// It is still under way, or Postgres cannot be asked.
pub(super) async fn has_happened(
    conn: &mut Connection,
    order: &Order,
    limit: Duration,
) -> Result<bool, StorageError> {
    let probe = conn.transaction(async |conn| {
        orders::insert(conn, &[order]).await?;
        Err::<(), _>(StorageError::Query(DieselError::RollbackTransaction))
    });
    match within(limit, probe).await {
        Err(StorageError::Query(DieselError::RollbackTransaction)) => Ok(false),
        Err(StorageError::Query(DieselError::DatabaseError(
            DatabaseErrorKind::UniqueViolation,
            _,
        ))) => Ok(true),
        Err(error) => Err(error),
        Ok(()) => unreachable!("the transaction above never commits"),
    }
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
