//! Where orders are kept: every use of Postgres by a request, each under a deadline.
//!
//! **Where it runs.** Each of the HTTP server's workers is a thread with a runtime of its own. A
//! connection made there would be driven by that one thread: stalled while it is busy, dead when it
//! ends. So all of this runs on the main, multi-threaded runtime: a worker hands over a piece of
//! work and awaits its answer. This costs two crossings between threads a request instead of two a
//! statement, and a client that hangs up does not tear a transaction apart: work that has begun runs
//! to its end, work that still waits for a connection is given up. What can be under way is
//! therefore bounded by the server's connections and the pool's size. Orders are handed over to the
//! writers of [`group_commit`] instead, unless that is switched off.
//!
//! It never decides what a client is answered; `http` does.

mod cancelling;
mod diagnosis;
mod error;
mod group_commit;
mod outcome;
mod placing;

use std::time::Duration;

use deadpool::managed::{PoolError, TimeoutType};
use domain::{Order, OrderId};
use futures::FutureExt;
use futures::future::BoxFuture;
use storage::journey::EventJourney;
use storage::pg::connection::{Pool, PooledConnection};
use storage::{
    Connection, Database, Session, StorageError, idempotency, journey, migrations, orders,
    with_timeout,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::wake_up::WakeUps;
pub use cancelling::{Cancellation, Cancelled};
pub use error::StoreError;
pub use group_commit::{Queue, Writer, group_commit};
pub use outcome::Placed;
use outcome::WorkError;
pub use placing::Placement;
pub use storage::idempotency::KeptAnswer;

/// How long waiting for a free connection, making one, or checking one may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of it may take. Below Postgres' own limit on a statement, so that a statement that
/// is too slow is always seen as that.
const WORK_WITHIN: Duration = Duration::from_secs(3);
/// How long a request waits: for the work and the look at why it failed, both of which are bounded,
/// and for a main runtime that is stuck, which is not.
const ANSWER_WITHIN: Duration = Duration::from_millis(3_450);

/// A pool of connections and the runtime they live on. Clones share both.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    runtime: Handle,
    wake_ups: WakeUps,
    /// Where orders are handed in to share commits; `None` when each has one of its own.
    queue: Option<Queue>,
    /// How long the answer to a request with a key is kept.
    key_lifetime: Duration,
    /// For how long after it was placed an order can be cancelled.
    cancellation_window: Duration,
}

/// For how long after it was placed an order can be cancelled, unless another time is set.
pub const CANCELLATION_WINDOW: Duration = Duration::from_hours(14 * 24);

/// How long the answer to a request with a key is kept, unless another time is set.
pub const KEY_LIFETIME: Duration = Duration::from_hours(24);

impl Store {
    /// A store of at most `connections` connections, which live on `runtime`. Makes none yet. It
    /// reports its commits to `wake_ups`, and each order has one of its own.
    pub fn new(
        database: &Database,
        connections: usize,
        runtime: Handle,
        wake_ups: WakeUps,
    ) -> Self {
        let session = Session::request("order-api");
        Self {
            pool: database.pool(&session, connections, PATIENCE),
            runtime,
            wake_ups,
            queue: None,
            key_lifetime: KEY_LIFETIME,
            cancellation_window: CANCELLATION_WINDOW,
        }
    }

    /// The same, with orders handed in to `queue`.
    #[must_use]
    pub fn with_group_commit(self, queue: Queue) -> Self {
        Self {
            queue: Some(queue),
            ..self
        }
    }

    /// The same, with keys that are forgotten after another time than [`KEY_LIFETIME`].
    #[must_use]
    pub fn with_key_lifetime(self, key_lifetime: Duration) -> Self {
        Self {
            key_lifetime,
            ..self
        }
    }

    /// The same, with orders that can be cancelled for another time than [`CANCELLATION_WINDOW`].
    #[must_use]
    pub fn with_cancellation_window(self, cancellation_window: Duration) -> Self {
        Self {
            cancellation_window,
            ..self
        }
    }

    /// How long the answer to a request with a key is kept.
    pub fn key_lifetime(&self) -> Duration {
        self.key_lifetime
    }

    /// The pool, to be watched.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Commits an order together with its event, unless its key has been used.
    ///
    /// Cancellation: a caller that goes away before a connection, or a writer, was free places no
    /// order; later, the order is placed all the same.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when the order may have been stored; after any other error it
    /// has not been.
    pub async fn place(&self, placement: Placement) -> Result<Placed, StoreError> {
        match &self.queue {
            Some(queue) => queue.place(placement).await,
            None => self.place_alone(placement).await,
        }
    }

    async fn place_alone(&self, placement: Placement) -> Result<Placed, StoreError> {
        let wake_ups = self.wake_ups.clone();
        let key_lifetime = self.key_lifetime;
        let work = async move |conn: &mut Connection, limit| {
            let outcome = placing::place(conn, &[&placement], key_lifetime, limit).await;
            if matches!(outcome, Ok(_) | Err(WorkError::Unknown(..))) {
                wake_ups.committed();
            }
            Ok(outcome?.pop())
        };
        self.with_connection(move |conn, limit| async move { work(conn, limit).await }.boxed())
            .await
            .and_then(|decided| decided.expect("one decision for one order"))
            .map_err(StoreError::uncertain)
    }

    /// Cancels an order and writes its event, unless that was done before or it is too late.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when it may be cancelled; after any other error it is not. To
    /// repeat it is harmless.
    pub async fn cancel(&self, cancellation: Cancellation) -> Result<Cancelled, StoreError> {
        let wake_ups = self.wake_ups.clone();
        let window = self.cancellation_window;
        let work = async move |conn: &mut Connection, limit| {
            let outcome = cancelling::cancel(conn, &cancellation, window, limit).await;
            if matches!(outcome, Ok(Cancelled::Now(_)) | Err(WorkError::Unknown(..))) {
                wake_ups.committed();
            }
            outcome
        };
        self.with_connection(move |conn, limit| async move { work(conn, limit).await }.boxed())
            .await
            .map_err(StoreError::uncertain)
    }

    /// The order of this id, if there is one.
    ///
    /// # Errors
    /// Postgres cannot answer.
    pub async fn find(&self, id: OrderId) -> Result<Option<Order>, StoreError> {
        self.with_connection(move |conn, limit| {
            async move { Ok(with_timeout(limit, orders::find(conn, id)).await?) }.boxed()
        })
        .await
    }

    /// Up to `limit` orders, newest first, from the one after `after` on.
    ///
    /// # Errors
    /// Postgres cannot answer.
    pub async fn newest(
        &self,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<Order>, StoreError> {
        self.with_connection(move |conn, deadline| {
            async move { Ok(with_timeout(deadline, orders::newest(conn, after, limit)).await?) }
                .boxed()
        })
        .await
    }

    /// Forgets up to `limit` keys that have outlived their lifetime; returns how many.
    ///
    /// # Errors
    /// Postgres cannot answer.
    pub async fn delete_expired_keys(&self, limit: u32) -> Result<usize, StoreError> {
        let lifetime = self.key_lifetime;
        self.with_connection(move |conn, deadline| {
            async move {
                Ok(
                    with_timeout(deadline, idempotency::delete_expired(conn, lifetime, limit))
                        .await?,
                )
            }
            .boxed()
        })
        .await
    }

    /// The order of this id, if there is one, and what became of its events.
    ///
    /// # Errors
    /// Postgres cannot answer.
    pub async fn journey(
        &self,
        id: OrderId,
    ) -> Result<Option<(Order, Vec<EventJourney>)>, StoreError> {
        let read = async move |conn: &mut Connection| match orders::find(conn, id).await? {
            Some(order) => Ok(Some((order, journey::of_order(conn, id).await?))),
            None => Ok::<_, StorageError>(None),
        };
        self.with_connection(move |conn, limit| {
            async move { Ok(with_timeout(limit, read(conn)).await?) }.boxed()
        })
        .await
    }

    /// The migrations that are missing; none when the schema is ready.
    ///
    /// # Errors
    /// Postgres cannot answer.
    pub async fn missing_migrations(&self) -> Result<Vec<String>, StoreError> {
        self.with_connection(move |conn, limit| {
            async move { Ok(with_timeout(limit, migrations::missing(conn)).await?) }.boxed()
        })
        .await
    }

    /// Whether orders can only be read: the server is a standby, or set so.
    ///
    /// # Errors
    /// Postgres cannot answer.
    pub async fn is_read_only(&self) -> Result<bool, StoreError> {
        self.with_connection(move |conn, limit| {
            async move { Ok(with_timeout(limit, migrations::is_read_only(conn)).await?) }.boxed()
        })
        .await
    }

    /// Runs `work` on the main runtime with a connection and the time it may take.
    async fn with_connection<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection, Duration) -> BoxFuture<'c, Result<T, WorkError>>
            + Send
            + 'static,
    {
        let (mut answer, answered) = oneshot::channel();
        let pool = self.pool.clone();
        self.runtime.spawn(async move {
            let give_up_at = Instant::now() + WORK_WITHIN;
            let outcome = tokio::select! {
                // Nobody waits any more, and nothing has begun.
                () = answer.closed() => return,
                lent = lend(&pool) => match lent {
                    Ok(conn) => run(conn, give_up_at, work).await,
                    Err(error) => Err(error),
                },
            };
            // Whoever asked may have gone; what was done stays done.
            let _ = answer.send(outcome);
        });
        match tokio::time::timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(StoreError::NoAnswer),
        }
    }
}

async fn lend(pool: &Pool) -> Result<PooledConnection, StoreError> {
    let lent = with_timeout(WORK_WITHIN, async {
        Ok::<_, StorageError>(pool.get().await)
    })
    .await;
    match lent {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(PoolError::Timeout(TimeoutType::Wait))) => Err(StoreError::Busy(PATIENCE)),
        Ok(Err(PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle))) => Err(
            StoreError::Unavailable(StorageError::Deadline(PATIENCE).to_string()),
        ),
        Ok(Err(PoolError::Backend(error))) => Err(StoreError::Unavailable(error.to_string())),
        Ok(Err(
            error @ (PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)),
        )) => Err(StoreError::Unavailable(error.to_string())),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

async fn run<T, W>(
    mut conn: PooledConnection,
    give_up_at: Instant,
    work: W,
) -> Result<T, StoreError>
where
    W: for<'c> FnOnce(&'c mut Connection, Duration) -> BoxFuture<'c, Result<T, WorkError>>,
{
    let limit = give_up_at.saturating_duration_since(Instant::now());
    let failure = match work(&mut conn, limit).await {
        Ok(value) => return Ok(value),
        Err(failure) => failure,
    };
    let (WorkError::RolledBack(error) | WorkError::Unknown(error, _)) = &failure;
    if matches!(error, StorageError::Deadline(_)) {
        // A statement may still be running on it.
        drop(PooledConnection::take(conn));
        return Err(diagnosis::without_asking(failure));
    }
    Err(diagnosis::ask(&mut conn, failure).await)
}
