//! [`Inbox`] on a connection to Postgres.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use diesel_async::{AsyncConnection, TransactionManager};
use domain::{EventId, NewEvent, Position, Received};
use storage::inbox::dead_letters::{self, Amount, DeadLetter, Ending, Stored};
use storage::inbox::retention::{self, Sweep, Swept};
use storage::inbox::{self, Opened, Progress, Stream};
use storage::lease::{self, Keeper, Leases, MemberId, Snapshot};
use storage::pg::fault;
use storage::{
    Connection, Database, DedicatedConnection, Session, StorageError, TransactionError, outbox,
};
use uuid::Uuid;

use crate::NAME;
use crate::apply::error::EffectError;
use crate::handlers::{self, Event};
use crate::ports::{Inbox, InboxFactory, LEASE_DEADLINE, STATEMENT_DEADLINE, Transaction};

type Manager = <Connection as AsyncConnection>::TransactionManager;

/// Inboxes in one database.
#[derive(Debug, Clone)]
pub struct PostgresInboxes {
    database: Database,
}

impl PostgresInboxes {
    /// Connects to nothing yet.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    fn inbox(&self, session: Session) -> Box<dyn Inbox> {
        Box::new(PostgresInbox::new(self.database.clone(), session))
    }
}

impl InboxFactory for PostgresInboxes {
    fn leased(&self, lease_ttl: Duration) -> Box<dyn Inbox> {
        self.inbox(Session::leased(NAME, lease_ttl))
    }

    fn background(&self) -> Box<dyn Inbox> {
        self.inbox(Session::request(NAME))
    }

    fn leases(&self, scope: &str, lease_ttl: Duration, units: i32) -> (Keeper, Leases) {
        let session = Session::leased(NAME, lease_ttl);
        Keeper::new(self.database.clone(), session, scope, lease_ttl, units)
    }
}

/// An inbox over one connection, which is made when first used.
pub struct PostgresInbox {
    connection: DedicatedConnection,
}

impl PostgresInbox {
    /// Connects to nothing yet.
    pub fn new(database: Database, session: Session) -> Self {
        Self {
            connection: DedicatedConnection::new(database, session),
        }
    }
}

#[async_trait]
impl Inbox for PostgresInbox {
    async fn connect(&mut self) -> Result<(), StorageError> {
        self.connection.connect().await
    }

    async fn progress(&mut self, stream: &Stream) -> Result<Option<Progress>, StorageError> {
        let look = async |conn: &mut _| inbox::progress(conn, stream).await;
        self.connection.call(STATEMENT_DEADLINE, look).await
    }

    async fn begin_at(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), StorageError> {
        let begin = async |conn: &mut _| inbox::begin_at(conn, stream, next_offset, topic_id).await;
        self.connection.call(STATEMENT_DEADLINE, begin).await
    }

    async fn identify(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Uuid,
    ) -> Result<(), StorageError> {
        let identify =
            async |conn: &mut _| inbox::identify(conn, stream, next_offset, topic_id).await;
        self.connection.call(STATEMENT_DEADLINE, identify).await
    }

    async fn begin(&mut self) -> Result<Box<dyn Transaction + '_>, StorageError> {
        let mut conn = self.connection.take().await?;
        Manager::begin_transaction(&mut conn).await?;
        Ok(Box::new(PostgresTransaction {
            home: &mut self.connection,
            conn,
            is_broken: false,
        }))
    }

    async fn cancel(&mut self) {
        self.connection.cancel().await;
    }

    async fn lease_snapshot(&mut self, scope: &str) -> Result<Snapshot, StorageError> {
        let look = async |conn: &mut _| lease::snapshot(conn, scope).await;
        self.connection.call(LEASE_DEADLINE, look).await
    }

    async fn next_offsets(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<HashMap<i32, i64>, StorageError> {
        let look = async |conn: &mut _| inbox::next_offsets(conn, group, topic).await;
        self.connection.call(STATEMENT_DEADLINE, look).await
    }

    async fn unpublished_older_than(&mut self, age: Duration) -> Result<bool, StorageError> {
        let look = async |conn: &mut _| retention::unpublished_older_than(conn, age).await;
        self.connection.call(STATEMENT_DEADLINE, look).await
    }

    async fn sweep(&mut self, sweep: &Sweep<'_>) -> Result<Swept, StorageError> {
        let sweep = async |conn: &mut _| retention::sweep(conn, sweep).await;
        self.connection.call(STATEMENT_DEADLINE, sweep).await
    }

    async fn sweep_dead_letters(&mut self, sweep: &Sweep<'_>) -> Result<i64, StorageError> {
        let sweep = async |conn: &mut _| retention::sweep_dead_letters(conn, sweep).await;
        self.connection.call(STATEMENT_DEADLINE, sweep).await
    }
}

/// A transaction that is open on a connection. The connection is taken from its home, and comes back
/// only when the transaction has ended in order.
struct PostgresTransaction<'a> {
    home: &'a mut DedicatedConnection,
    conn: Connection,
    /// A call failed, and not for the sake of its values.
    is_broken: bool,
}

impl PostgresTransaction<'_> {
    fn note<T>(&mut self, outcome: Result<T, StorageError>) -> Result<T, StorageError> {
        self.is_broken |= outcome.is_err();
        outcome
    }

    fn note_effect(&mut self, outcome: Result<(), EffectError>) -> Result<(), EffectError> {
        let is_in_order = |error: &EffectError| error.blames_an_event(true);
        self.is_broken |= outcome.as_ref().is_err_and(|error| !is_in_order(error));
        outcome
    }
}

#[async_trait]
impl Transaction for PostgresTransaction<'_> {
    async fn fence(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
        topic_id: Option<Uuid>,
        owner: MemberId,
        epoch: i64,
    ) -> Result<Option<Opened>, StorageError> {
        let opened = inbox::fence(&mut self.conn, stream, offsets, topic_id, owner, epoch).await;
        self.note(opened)
    }

    async fn held_keys(
        &mut self,
        stream: &Stream,
        keys: &[&[u8]],
    ) -> Result<HashSet<Vec<u8>>, StorageError> {
        let held = dead_letters::held_keys(&mut self.conn, stream, keys).await;
        self.note(held)
    }

    async fn held_before(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
    ) -> Result<Vec<Stored>, StorageError> {
        let held = dead_letters::held_before(&mut self.conn, stream, offsets).await;
        self.note(held)
    }

    async fn record_unmet(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<bool, StorageError> {
        let recorded = inbox::record_unmet(&mut self.conn, stream, events).await;
        self.note(recorded)
    }

    async fn record(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<HashSet<EventId>, StorageError> {
        let new = inbox::record(&mut self.conn, stream, events).await;
        self.note(new)
    }

    async fn follow_copies(
        &mut self,
        stream: &Stream,
        copies: &[(EventId, i64)],
    ) -> Result<(), StorageError> {
        let followed = inbox::follow_copies(&mut self.conn, stream, copies).await;
        self.note(followed)
    }

    async fn unrecord(&mut self, group: &str, events: &[EventId]) -> Result<(), StorageError> {
        let undone = inbox::unrecord(&mut self.conn, group, events).await;
        self.note(undone)
    }

    async fn apply(&mut self, events: &[Received<Event>]) -> Result<(), EffectError> {
        let applied = handlers::apply(&mut self.conn, events).await;
        self.note_effect(applied)
    }

    async fn try_apply(&mut self, events: &[Received<Event>]) -> Result<(), EffectError> {
        let under_savepoint = async |conn: &mut _| handlers::apply(conn, events).await;
        let applied = self.conn.transaction(under_savepoint).await;
        self.note_effect(applied)
    }

    async fn messages_are_english(&mut self) -> Result<bool, StorageError> {
        let english = fault::messages_are_english(&mut self.conn).await;
        self.note(english)
    }

    async fn hold(
        &mut self,
        stream: &Stream,
        letters: &[DeadLetter],
    ) -> Result<Option<i64>, StorageError> {
        let held = dead_letters::hold(&mut self.conn, stream, letters).await;
        self.note(held)
    }

    async fn append(&mut self, events: &[NewEvent]) -> Result<(), StorageError> {
        let appended = outbox::append(&mut self.conn, events).await;
        self.note(appended)
    }

    async fn advance(&mut self, stream: &Stream, progress: Progress) -> Result<(), StorageError> {
        let advanced = inbox::advance(&mut self.conn, stream, progress).await;
        self.note(advanced)
    }

    async fn reset(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), StorageError> {
        let reset = inbox::reset(&mut self.conn, stream, next_offset, topic_id).await;
        self.note(reset)
    }

    async fn key_of(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Option<Vec<u8>>>, StorageError> {
        let key = dead_letters::key_of(&mut self.conn, group, position).await;
        self.note(key)
    }

    async fn lock_key(&mut self, group: &str, topic: &str, key: &[u8]) -> Result<(), StorageError> {
        let locked = dead_letters::lock_key(&mut self.conn, group, topic, key).await;
        self.note(locked)
    }

    async fn unsettled_of_key(
        &mut self,
        group: &str,
        topic: &str,
        key: &[u8],
        amount: Amount,
    ) -> Result<Vec<Stored>, StorageError> {
        let conn = &mut self.conn;
        let unsettled = dead_letters::unsettled_of_key(conn, group, topic, key, amount).await;
        self.note(unsettled)
    }

    async fn unsettled_without_key(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Stored>, StorageError> {
        let conn = &mut self.conn;
        let unsettled = dead_letters::unsettled_without_key(conn, group, position).await;
        self.note(unsettled)
    }

    async fn settle(
        &mut self,
        group: &str,
        topic: &str,
        places: &[(i32, i64)],
        ending: Ending,
    ) -> Result<(), StorageError> {
        let settled = dead_letters::settle(&mut self.conn, group, topic, places, ending).await;
        self.note(settled)
    }

    async fn rejected(
        &mut self,
        group: &str,
        position: &Position,
        reason: &str,
    ) -> Result<(), StorageError> {
        let noted = dead_letters::rejected(&mut self.conn, group, position, reason).await;
        self.note(noted)
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StorageError> {
        Manager::commit_transaction(&mut self.conn).await?;
        self.home.keep(self.conn);
        Ok(())
    }

    async fn rollback(mut self: Box<Self>) -> Result<(), StorageError> {
        // Also where the connection is not kept: locks are given back at once.
        match Manager::rollback_transaction(&mut self.conn).await {
            Ok(()) if !self.is_broken => self.home.keep(self.conn),
            // What broke it was said before.
            Ok(()) | Err(TransactionError::BrokenTransactionManager) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
