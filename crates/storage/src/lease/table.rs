//! What a [`Keeper`](super::Keeper) asks of the two tables of leases, and the tables in Postgres.

use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use diesel_async::AsyncPgConnection;
use futures::StreamExt;

use super::{
    Claim, MemberId, Snapshot, claim, ensure_units, leave, release, remove_expired_members, renew,
    snapshot,
};
use crate::notify::{Channel, listen, notify, wake_ups};
use crate::pg::connection::{Database, Session};
use crate::pg::error::{StorageError, with_timeout};

/// The two tables of leases of one scope. Every call ends within a third of the leases' TTL, once
/// connected. A call that fails may have happened all the same.
#[async_trait]
pub trait LeaseTable: Send {
    /// Makes sure that the next call is sent at once. [`Self::renew`] counts its time from then.
    async fn connect(&mut self) -> Result<(), StorageError>;

    /// See [`ensure_units`].
    async fn ensure_units(&mut self, count: i32) -> Result<(), StorageError>;

    /// See [`renew`].
    async fn renew(&mut self, me: MemberId, ttl: Duration) -> Result<Vec<Claim>, StorageError>;

    /// See [`snapshot`].
    async fn snapshot(&mut self) -> Result<Snapshot, StorageError>;

    /// See [`claim`].
    async fn claim(
        &mut self,
        me: MemberId,
        seen: &[(i32, i64)],
    ) -> Result<Vec<Claim>, StorageError>;

    /// See [`release`].
    async fn release(&mut self, me: MemberId, units: &[i32]) -> Result<(), StorageError>;

    /// See [`leave`].
    async fn leave(&mut self, me: MemberId) -> Result<(), StorageError>;

    /// See [`remove_expired_members`].
    async fn remove_expired_members(&mut self) -> Result<(), StorageError>;

    /// Wakes the other members. A hint that may get lost.
    async fn notify_others(&mut self) -> Result<(), StorageError>;

    /// Waits for a hint of another member, for ever if none can come.
    ///
    /// # Cancellation
    /// Safe: a hint that is missed costs time only.
    async fn heard(&mut self);
}

/// The tables in Postgres, over one connection: made when first used, and again after a call that
/// failed.
pub struct PostgresLeases {
    database: Database,
    session: Session,
    scope: String,
    /// Of every call.
    limit: Duration,
    connection: Option<AsyncPgConnection>,
}

impl PostgresLeases {
    /// `ttl` is that of the leases. Connects when first used.
    pub fn new(
        database: Database,
        session: Session,
        scope: impl Into<String>,
        ttl: Duration,
    ) -> Self {
        Self {
            database,
            session,
            scope: scope.into(),
            limit: ttl / 3,
            connection: None,
        }
    }

    /// Runs one call. The connection is kept only if the call succeeds: what a failed one answers
    /// next is unknown.
    async fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut AsyncPgConnection, &str) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut conn = self.take().await?;
        let value = with_timeout(self.limit, call(&mut conn, &self.scope)).await?;
        self.connection = Some(conn);
        Ok(value)
    }

    async fn take(&mut self) -> Result<AsyncPgConnection, StorageError> {
        if let Some(conn) = self.connection.take() {
            return Ok(conn);
        }
        let mut conn = Box::pin(self.database.connect(&self.session)).await?;
        with_timeout(self.limit, listen(&mut conn, &[Channel::Lease])).await?;
        Ok(conn)
    }
}

#[async_trait]
impl LeaseTable for PostgresLeases {
    async fn connect(&mut self) -> Result<(), StorageError> {
        self.connection = Some(self.take().await?);
        Ok(())
    }

    async fn ensure_units(&mut self, count: i32) -> Result<(), StorageError> {
        self.call(async |conn, scope| ensure_units(conn, scope, count).await)
            .await
    }

    async fn renew(&mut self, me: MemberId, ttl: Duration) -> Result<Vec<Claim>, StorageError> {
        self.call(async |conn, scope| renew(conn, scope, me, ttl).await)
            .await
    }

    async fn snapshot(&mut self) -> Result<Snapshot, StorageError> {
        self.call(async |conn, scope| snapshot(conn, scope).await)
            .await
    }

    async fn claim(
        &mut self,
        me: MemberId,
        seen: &[(i32, i64)],
    ) -> Result<Vec<Claim>, StorageError> {
        self.call(async |conn, scope| claim(conn, scope, me, seen).await)
            .await
    }

    async fn release(&mut self, me: MemberId, units: &[i32]) -> Result<(), StorageError> {
        self.call(async |conn, scope| release(conn, scope, me, units).await)
            .await?;
        Ok(())
    }

    async fn leave(&mut self, me: MemberId) -> Result<(), StorageError> {
        self.call(async |conn, scope| leave(conn, scope, me).await)
            .await
    }

    async fn remove_expired_members(&mut self) -> Result<(), StorageError> {
        self.call(async |conn, scope| remove_expired_members(conn, scope).await)
            .await
    }

    async fn notify_others(&mut self) -> Result<(), StorageError> {
        let Some(mut conn) = self.connection.take() else {
            return Ok(());
        };
        let notified = with_timeout(self.limit, notify(&mut conn, Channel::Lease)).await;
        // A queue of notifications that is full says nothing against the connection.
        if matches!(notified, Ok(()) | Err(StorageError::Query(_))) {
            self.connection = Some(conn);
        }
        notified
    }

    async fn heard(&mut self) {
        if let Some(conn) = &mut self.connection
            && let Some(Ok(_)) = pin!(wake_ups(conn)).next().await
        {
            return;
        }
        // Without a connection, or with a broken one, the next beat is what helps.
        std::future::pending::<()>().await;
    }
}
