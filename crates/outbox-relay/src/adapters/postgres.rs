//! Postgres behind the port.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use domain::Slot;
use futures::StreamExt;
use storage::lease::{LeaseTable, MemberId, PostgresLeases};
use storage::notify::{Channel, listen, wake_ups};
use storage::outbox::{
    self, Backlog, Batch, BatchLimits, Cleaned, Done, HeldCounts, HeldEvents, Hold, HorizonHolder,
    LowestPending, MoveFrom, Orphan, Settled, UnavailableGroup,
};
use storage::{Connection, Database, DedicatedConnection, Session, StorageError};

use crate::lease::{LEASE_SCOPE, NAME};
use crate::ports::{CALL_DEADLINE, LOOK_DEADLINE, Outbox, OutboxConnection, READ_GRACE, Role};

pub(super) struct PostgresOutbox {
    pub(super) database: Database,
    pub(super) lease_ttl: Duration,
}

impl PostgresOutbox {
    fn session(&self, role: Role) -> Session {
        let session = match role {
            Role::Pipeline => Session::leased(NAME, self.lease_ttl),
            Role::Maintenance => Session::request(NAME),
        };
        session.with_index_plans()
    }
}

impl Outbox for PostgresOutbox {
    fn connection(&self, role: Role) -> Box<dyn OutboxConnection> {
        Box::new(PostgresConnection {
            connection: DedicatedConnection::new(self.database.clone(), self.session(role)),
            read_limit: None,
            limited_to: None,
            listening: None,
        })
    }

    fn leases(&self) -> Box<dyn LeaseTable> {
        Box::new(PostgresLeases::new(
            self.database.clone(),
            Session::leased(NAME, self.lease_ttl),
            LEASE_SCOPE,
            self.lease_ttl,
        ))
    }

    fn statement_timeout(&self) -> Duration {
        self.session(Role::Pipeline).statement_timeout()
    }
}

struct PostgresConnection {
    connection: DedicatedConnection,
    /// What reads may take, if that is not what every statement may.
    read_limit: Option<Duration>,
    /// What the session's statements are limited to; `None` of a new connection.
    limited_to: Option<Duration>,
    /// The connection while it listens.
    listening: Option<Connection>,
}

impl PostgresConnection {
    async fn call<T>(
        &mut self,
        deadline: Duration,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let outcome = self.connection.call(deadline, call).await;
        if outcome.is_err() {
            // The next call may have another connection.
            self.limited_to = None;
        }
        outcome
    }

    async fn read<T>(
        &mut self,
        read: impl AsyncFnOnce(&mut Connection) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let Some(limit) = self.read_limit else {
            return self.call(LOOK_DEADLINE, read).await;
        };
        self.limit_statements(limit).await?;
        self.call(limit + READ_GRACE, read).await
    }

    async fn limit_statements(&mut self, limit: Duration) -> Result<(), StorageError> {
        if self.limited_to != Some(limit) {
            let set = async |conn: &mut _| outbox::limit_statements(conn, limit).await;
            self.call(READ_GRACE, set).await?;
            self.limited_to = Some(limit);
        }
        Ok(())
    }
}

#[async_trait]
impl OutboxConnection for PostgresConnection {
    async fn connect(&mut self) -> Result<(), StorageError> {
        self.connection.connect().await?;
        match self.read_limit {
            Some(limit) => self.limit_statements(limit).await,
            None => Ok(()),
        }
    }

    fn limit_reads(&mut self, limit: Duration) {
        self.read_limit = Some(limit);
    }

    async fn read_pending(
        &mut self,
        slots: &[Slot],
        limits: BatchLimits,
        default_source: &str,
    ) -> Result<Batch, StorageError> {
        self.read(async |conn| outbox::read_pending(conn, slots, limits, default_source).await)
            .await
    }

    async fn unavailable_groups(
        &mut self,
        slots: &[Slot],
    ) -> Result<Vec<UnavailableGroup>, StorageError> {
        self.read(async |conn| outbox::unavailable_groups(conn, slots).await)
            .await
    }

    async fn remove_orphans(&mut self, orphans: &[Orphan]) -> Result<usize, StorageError> {
        let remove = async |conn: &mut _| outbox::remove_orphans(conn, orphans).await;
        self.call(CALL_DEADLINE, remove).await
    }

    async fn settle(&mut self, events: &mut [Settled]) -> Result<usize, StorageError> {
        let settle = async |conn: &mut _| outbox::settle(conn, events).await;
        self.call(CALL_DEADLINE, settle).await
    }

    async fn hold(
        &mut self,
        member: MemberId,
        holds: &[Hold],
    ) -> Result<Vec<HeldEvents>, StorageError> {
        let hold = async |conn: &mut _| outbox::hold(conn, LEASE_SCOPE, member, holds).await;
        self.call(CALL_DEADLINE, hold).await
    }

    async fn move_back(
        &mut self,
        member: MemberId,
        of: (Slot, i64),
        from: MoveFrom<'_>,
        limit: i64,
    ) -> Result<i64, StorageError> {
        let back = async |conn: &mut _| {
            outbox::move_back(conn, LEASE_SCOPE, member, of, from, limit).await
        };
        self.call(CALL_DEADLINE, back).await
    }

    async fn clean(
        &mut self,
        done: Done,
        retention: Duration,
        after: Option<i64>,
        rows: i64,
    ) -> Result<Option<Cleaned>, StorageError> {
        let clean = async |conn: &mut _| outbox::clean(conn, done, retention, after, rows).await;
        self.call(CALL_DEADLINE, clean).await
    }

    async fn counts(&mut self, bound: i64) -> Result<(Backlog, HeldCounts), StorageError> {
        let count = async |conn: &mut _| {
            let backlog = outbox::backlog(conn, bound).await?;
            Ok((backlog, outbox::held_counts(conn, bound).await?))
        };
        self.call(LOOK_DEADLINE, count).await
    }

    async fn horizon_holders(&mut self) -> Result<Vec<HorizonHolder>, StorageError> {
        let look = async |conn: &mut _| outbox::horizon_holders(conn).await;
        self.call(LOOK_DEADLINE, look).await
    }

    async fn slots_to_watch(&mut self, member: MemberId) -> Result<Vec<Slot>, StorageError> {
        let look = async |conn: &mut _| outbox::slots_to_watch(conn, LEASE_SCOPE, member).await;
        self.call(LOOK_DEADLINE, look).await
    }

    async fn still_waiting(
        &mut self,
        events: &[(Slot, i64)],
    ) -> Result<HashSet<i64>, StorageError> {
        let look = async |conn: &mut _| outbox::still_waiting(conn, events).await;
        self.call(LOOK_DEADLINE, look).await
    }

    async fn lowest_pending(&mut self, slots: &[Slot]) -> Result<Vec<LowestPending>, StorageError> {
        let look = async |conn: &mut _| outbox::lowest_pending(conn, slots).await;
        self.call(LOOK_DEADLINE, look).await
    }

    async fn listen(&mut self) -> Result<(), StorageError> {
        self.listening = None;
        let mut conn = self.connection.take().await?;
        listen(&mut conn, &[Channel::Outbox]).await?;
        self.listening = Some(conn);
        Ok(())
    }

    async fn wake_up(&mut self) -> Result<(), StorageError> {
        if let Some(conn) = &mut self.listening {
            let mut wake_ups = std::pin::pin!(wake_ups(conn));
            while let Some(channel) = wake_ups.next().await {
                if channel? == Channel::Outbox {
                    return Ok(());
                }
            }
        }
        Err(StorageError::closed())
    }
}
