//! Cancelling an order: its state and its event in one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel_async::AsyncConnection;
use domain::{Order, OrderId, TooLateToCancel};
use storage::{Connection, StorageError, orders, outbox, with_timeout};
use time::OffsetDateTime;

use super::outcome::{WorkError, is_refusal};

/// What became of an order that was to be cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled now.
    Now(Order),
    /// It was cancelled before; nothing was done.
    Before(Order),
    /// It can be cancelled no more; nothing was done.
    TooLate(TooLateToCancel),
    /// There is no such order.
    NoOrder,
}

/// An order to be cancelled.
#[derive(Debug, Clone)]
pub struct Cancellation {
    pub order: OrderId,
    pub at: OffsetDateTime,
    /// Further headers of its event, such as `traceparent`.
    pub headers: BTreeMap<String, String>,
}

/// Cancels an order within `window` from when it was placed. Of several requests at once the first to
/// lock the row does it; the others find that it is done.
///
/// Cancellation: the connection must not be used again.
pub(super) async fn cancel(
    conn: &mut Connection,
    cancellation: &Cancellation,
    window: Duration,
    limit: Duration,
) -> Result<Cancelled, WorkError> {
    let mut committing = false;
    let transaction = conn.transaction(async |conn| {
        let Some(mut order) = orders::lock(conn, cancellation.order).await? else {
            return Ok(Cancelled::NoOrder);
        };
        match order.cancel(cancellation.at, window) {
            Err(too_late) => return Ok(Cancelled::TooLate(too_late)),
            Ok(false) => return Ok(Cancelled::Before(order)),
            Ok(true) => {}
        }
        if let Some(mut event) = order.cancelled_event() {
            event.headers.extend(cancellation.headers.clone());
            orders::cancel(conn, &order).await?;
            outbox::append(conn, &[event]).await?;
        }
        // From here on a missing answer says nothing about what happened.
        committing = true;
        Ok::<_, StorageError>(Cancelled::Now(order))
    });
    match with_timeout(limit, transaction).await {
        Ok(cancelled) => Ok(cancelled),
        Err(error) if committing && !is_refusal(&error) => {
            Err(WorkError::Unknown(error, Vec::new()))
        }
        Err(error) => Err(WorkError::RolledBack(error)),
    }
}
