//! A connection that one task keeps from call to call.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use crate::connection::{Database, Session};
use crate::error::{StorageError, within};

/// Made when it is first used, and anew after a call that failed, ran out of time or was dropped
/// midway: nobody knows what such a connection would answer next.
pub struct OwnConnection {
    database: Database,
    session: Session,
    connection: Option<AsyncPgConnection>,
}

impl OwnConnection {
    /// Connects when first used.
    pub fn new(database: Database, session: Session) -> Self {
        Self {
            database,
            session,
            connection: None,
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
        let value = within(limit, call(&mut conn)).await?;
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
        match self.connection.take() {
            Some(conn) => Ok(conn),
            // Rare, and much larger than the calls that wait for it.
            None => Box::pin(self.database.connect(&self.session)).await,
        }
    }

    /// For the next call.
    pub fn keep(&mut self, conn: AsyncPgConnection) {
        self.connection = Some(conn);
    }
}
