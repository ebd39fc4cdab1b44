//! Postgres as the statements of `storage` see it: a state machine that is asked and answers at once.
//!
//! Each operation of [`Connection`] has the name, the arguments and the result of the function of
//! `storage` whose statements it follows: which rows they see, lock and change, under `read committed`.
//! A statement that would wait for another transaction answers [`DatabaseError::Blocked`]; call it
//! again when a transaction has ended. It keeps its snapshot and its locks meanwhile, as in Postgres.
//!
//! Time is told by the caller, as the duration since [`Database::EPOCH`]. Nothing here is random.
//! A property test compares all of it with the real statements on a real Postgres.

mod call;
mod commands;
mod dead_letters;
mod error;
mod hash;
mod hold;
mod inbox;
mod lease;
mod locks;
mod mutation;
mod outbox;
mod read;
mod retention;
mod rows;
mod session;
mod status;
mod table;
mod transaction;
mod unavailable;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use domain::{EventId, Slot};
use storage::inbox::Progress;
use storage::lease::MemberId;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

pub use error::DatabaseError;
pub use mutation::Mutation;
pub use rows::{
    DeadLetterKey, DeadLetterRow, EventRow, HeldRow, InboxRow, LeaseKey, LeaseRow, MemberRow,
    OffsetKey, PendingRow, PublishedRow,
};
pub use session::SessionId;
pub use transaction::TransactionId;

use locks::Locks;
use rows::Tables;
use session::Session;
use table::RowId;
use transaction::Transaction;
use writer::Pause;

/// The database.
#[derive(Debug, Default)]
pub struct Database {
    mutation: Option<Mutation>,
    tables: Tables,
    locks: Locks,
    sessions: BTreeMap<SessionId, Session>,
    transactions: BTreeMap<TransactionId, Transaction>,
    prepared: BTreeMap<String, TransactionId>,
    /// The last number that the sequence of `outbox_event.id` gave.
    last_event: i64,
    last_session: u64,
    last_transaction: u64,
    last_commit: u64,
    last_row: RowId,
    /// Counts locks and changes.
    step: u64,
    ended: u64,
}

/// A session at a moment: what its next operation happens on.
#[derive(Debug)]
pub struct Connection<'a> {
    database: &'a mut Database,
    session: SessionId,
    now: Duration,
    pause: Pause,
}

impl Database {
    /// When time begins.
    pub const EPOCH: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    /// An empty schema, whose statements have this fault, if any.
    pub fn new(mutation: Option<Mutation>) -> Self {
        Self {
            mutation,
            ..Self::default()
        }
    }

    /// The point in time that is `now` since the beginning.
    pub fn time(now: Duration) -> OffsetDateTime {
        Self::EPOCH + now
    }

    /// The slot of a key: `hashtextextended(key, 0) & 31`.
    pub fn slot(key: &str) -> Slot {
        hash::slot(key)
    }

    /// Opens a connection.
    pub fn connect(&mut self) -> SessionId {
        self.last_session += 1;
        let id = SessionId(self.last_session);
        self.sessions.insert(id, Session::default());
        id
    }

    /// Closes a connection; what had begun on it is rolled back.
    pub fn disconnect(&mut self, session: SessionId) {
        let closed = self.sessions.remove(&session);
        if let Some(transaction) = closed.and_then(|session| session.transaction) {
            self.roll_back(transaction);
        }
    }

    /// Ends every connection, as a crash of the server does. What was prepared stays.
    pub fn crash(&mut self) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.disconnect(session);
        }
    }

    /// What a session does at a moment.
    ///
    /// # Panics
    /// When the session is not open.
    pub fn on(&mut self, session: SessionId, now: Duration) -> Connection<'_> {
        assert!(self.sessions.contains_key(&session), "the session is open");
        Connection {
            database: self,
            session,
            now,
            pause: Pause::default(),
        }
    }

    /// Whether a connection is open.
    pub fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Whose transaction this is; `None` of one that has ended, or was prepared.
    pub fn session_of(&self, transaction: TransactionId) -> Option<SessionId> {
        let mut sessions = self.sessions.iter();
        let session = sessions.find(|(_, session)| session.transaction == Some(transaction))?;
        Some(*session.0)
    }

    /// The transactions that a session's operation waits for.
    pub fn waits_for(&self, session: SessionId) -> impl Iterator<Item = TransactionId> {
        let waiting = self.sessions.get(&session).and_then(|s| s.transaction);
        let blockers = waiting.map(|transaction| self.locks.waits_for(transaction));
        blockers.into_iter().flatten()
    }

    /// How often locks were given back: transactions ended, or failed, or were rolled back to a
    /// savepoint. What waits may go on when this has grown.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// The transactions that were prepared and have not ended.
    pub fn prepared(&self) -> impl Iterator<Item = &str> {
        self.prepared.keys().map(String::as_str)
    }

    /// Commits a prepared transaction; false when there is none of that name.
    pub fn commit_prepared(&mut self, name: &str) -> bool {
        let prepared = self.prepared.remove(name);
        prepared.map(|id| self.commit(id)).is_some()
    }

    /// Rolls a prepared transaction back; false when there is none of that name.
    pub fn rollback_prepared(&mut self, name: &str) -> bool {
        let prepared = self.prepared.remove(name);
        prepared.map(|id| self.roll_back(id)).is_some()
    }

    fn start(&mut self, transaction: Transaction) -> TransactionId {
        self.last_transaction += 1;
        let id = TransactionId(self.last_transaction);
        self.transactions.insert(id, transaction);
        id
    }

    fn commit(&mut self, id: TransactionId) {
        self.transactions.remove(&id);
        self.last_commit += 1;
        let waiting = self.transactions.values().filter_map(Transaction::snapshot);
        let horizon = waiting.min().unwrap_or(self.last_commit);
        self.tables.commit(id, self.last_commit, horizon);
        self.locks.release(id, 0);
        self.ended += 1;
    }

    fn roll_back(&mut self, id: TransactionId) {
        self.transactions.remove(&id);
        self.tables.undo(id, 0);
        self.locks.release(id, 0);
        self.ended += 1;
    }
}

impl Connection<'_> {
    /// The database, for checkers that look at it before and after an operation.
    pub fn database(&self) -> &Database {
        self.database
    }
}

/// What is committed, for checkers and tests.
impl Database {
    /// One row of `lease`.
    pub fn lease(&self, scope: &str, unit: i32) -> Option<&LeaseRow> {
        self.tables.leases.committed_row(&(scope.to_owned(), unit))
    }

    /// One row of `lease_member`.
    pub fn member(&self, scope: &str, member: MemberId) -> Option<&MemberRow> {
        self.tables
            .members
            .committed_row(&(scope.to_owned(), member))
    }

    /// One row of `inbox_offset`.
    pub fn offset(&self, key: &OffsetKey) -> Option<&Progress> {
        self.tables.offsets.committed_row(key)
    }

    /// `outbox_event`, by id.
    pub fn events(&self) -> impl Iterator<Item = (&i64, &EventRow)> {
        self.tables.events.committed()
    }

    /// One row of `outbox_event`.
    pub fn event(&self, id: i64) -> Option<&EventRow> {
        self.tables.events.committed_row(&id)
    }

    /// `outbox_pending`, by slot and id.
    pub fn pending(&self) -> impl Iterator<Item = (&(i16, i64), &PendingRow)> {
        self.tables.pending.committed()
    }

    /// `outbox_published`, by id.
    pub fn published(&self) -> impl Iterator<Item = (&i64, &PublishedRow)> {
        self.tables.published.committed()
    }

    /// `outbox_held`, by id.
    pub fn held(&self) -> impl Iterator<Item = (&i64, &HeldRow)> {
        self.tables.held.committed()
    }

    /// `lease`, by scope and unit.
    pub fn leases(&self) -> impl Iterator<Item = (&LeaseKey, &LeaseRow)> {
        self.tables.leases.committed()
    }

    /// `lease_member`, by scope and member.
    pub fn members(&self) -> impl Iterator<Item = (&(String, MemberId), &MemberRow)> {
        self.tables.members.committed()
    }

    /// `inbox`, by group and event id.
    pub fn inbox(&self) -> impl Iterator<Item = (&(String, Uuid), &InboxRow)> {
        self.tables.inbox.committed()
    }

    /// `inbox_offset`, by group, topic and partition.
    pub fn offsets(&self) -> impl Iterator<Item = (&OffsetKey, &Progress)> {
        self.tables.offsets.committed()
    }

    /// `inbox_dead_letter`, by group, topic, partition and offset.
    pub fn dead_letters(&self) -> impl Iterator<Item = (&DeadLetterKey, &DeadLetterRow)> {
        self.tables.dead_letters.committed()
    }

    /// What handlers did, in the order in which it was done, by what they did it to.
    pub fn effects(&self) -> impl Iterator<Item = (&String, &Vec<EventId>)> {
        self.tables.effects.committed()
    }
}
