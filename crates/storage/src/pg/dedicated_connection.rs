//! A connection that one task keeps from call to call.

use std::time::Duration;

use tokio::time::Instant;

use diesel_async::AsyncPgConnection;
use tokio_postgres::{CancelToken, NoTls};

use crate::pg::connection::{Database, Session};
use crate::pg::error::{StorageError, with_timeout};

/// A connection that was checked less than this ago is used as it is. Older ones are checked first: a
/// task that only reads would never notice that its server has turned read-only.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long the check may take.
const CHECK_WITHIN: Duration = Duration::from_secs(2);
/// How long asking Postgres to cancel a statement may take.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// Made when it is first used, and again after a call that failed, ran out of time or was dropped
/// midway: the next answer of such a connection would be unreliable.
pub struct DedicatedConnection {
    database: Database,
    session: Session,
    connection: Option<AsyncPgConnection>,
    /// When its server was known to be one that can be written.
    checked_at: Instant,
    /// Of the connection that was taken last.
    cancel: Option<CancelToken>,
}

impl DedicatedConnection {
    /// Connects when first used.
    pub fn new(database: Database, session: Session) -> Self {
        Self {
            database,
            session,
            connection: None,
            checked_at: Instant::now(),
            cancel: None,
        }
    }

    /// Runs one call within `limit`, once connected.
    ///
    /// # Errors
    /// When no connection can be made, those of the call, and [`StorageError::Deadline`].
    pub async fn call<T, E: Into<StorageError>>(
        &mut self,
        limit: Duration,
        call: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T, E>,
    ) -> Result<T, StorageError> {
        let mut conn = self.take().await?;
        let value = with_timeout(limit, call(&mut conn)).await?;
        self.keep(conn);
        Ok(value)
    }

    /// Connects ahead of the first call.
    ///
    /// # Errors
    /// When no connection can be made; the next call tries again.
    pub async fn connect(&mut self) -> Result<(), StorageError> {
        let conn = self.take().await?;
        self.keep(conn);
        Ok(())
    }

    /// The connection, for calls with deadlines of their own. What is not given to
    /// [`keep`](Self::keep) again is closed.
    ///
    /// # Errors
    /// When none can be made.
    pub async fn take(&mut self) -> Result<AsyncPgConnection, StorageError> {
        let conn = if let Some(conn) = self.kept().await {
            conn
        } else {
            // Rare, and much larger than the calls that wait for it.
            let conn = Box::pin(self.database.connect(&self.session)).await?;
            self.checked_at = Instant::now();
            conn
        };
        self.cancel = Some(conn.cancel_token());
        Ok(conn)
    }

    /// The connection of the call before, unless it must not be used any more.
    async fn kept(&mut self) -> Option<AsyncPgConnection> {
        let mut conn = self.connection.take()?;
        if self.checked_at.elapsed() >= CHECK_EVERY {
            let checked = with_timeout(CHECK_WITHIN, self.database.check(&mut conn)).await;
            if let Err(error) = checked {
                tracing::debug!(%error, "dropping a connection");
                return None;
            }
            self.checked_at = Instant::now();
        }
        Some(conn)
    }

    /// Ends what the connection that was taken last still does: a statement that waits for a lock does
    /// not notice that nobody waits for it, and keeps the locks it has. As good as Postgres can be
    /// asked.
    pub async fn cancel(&mut self) {
        if self.connection.is_none()
            && let Some(token) = self.cancel.take()
        {
            let _ = tokio::time::timeout(CANCEL_WITHIN, token.cancel_query(NoTls)).await;
        }
    }

    /// For the next call.
    pub fn keep(&mut self, conn: AsyncPgConnection) {
        self.connection = Some(conn);
    }
}
