//! Cancelling an order: its state and its event in one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel_async::AsyncConnection;
use domain::{Order, OrderId, TooLateToCancel};
use storage::{Connection, StorageError, orders, outbox, with_timeout};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::outcome::WorkError;

/// How long another transaction may keep an order locked: a request that waits keeps a connection.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

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
    /// Another transaction keeps it locked; nothing was done.
    Locked,
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
        let mut order = match lock(conn, cancellation.order).await? {
            Ok(order) => order,
            Err(instead) => return Ok(instead),
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
        Err(error) if committing && !error.is_refusal() => {
            Err(WorkError::Unknown(error, Vec::new()))
        }
        Err(error) => Err(WorkError::RolledBack(error)),
    }
}

/// Locks an order that can be cancelled, or says what there is instead.
async fn lock(
    conn: &mut Connection,
    id: OrderId,
) -> Result<Result<Order, Cancelled>, StorageError> {
    let give_up_at = Instant::now() + LOCK_PATIENCE;
    loop {
        // One that is cancelled needs no lock.
        let Some(order) = orders::find(conn, id).await? else {
            return Ok(Err(Cancelled::NoOrder));
        };
        if order.cancelled_at.is_some() {
            return Ok(Err(Cancelled::Before(order)));
        }
        if let Some(order) = orders::try_lock(conn, id).await? {
            return Ok(Ok(order));
        }
        if Instant::now() >= give_up_at {
            return Ok(Err(Cancelled::Locked));
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}
