//! What the consumer asks of Postgres and of Kafka. Everything else in this crate reaches them through
//! these traits only; [`crate::adapters`] implements them on the real servers.
//!
//! An [`Inbox`] is one connection. Each task has one of its own, and so has each [`RecordReader`]. What
//! a call means in full is said where its statement is, in [`storage::inbox`].
//!
//! Every call ends. An implementation keeps the deadlines of this module for all but a
//! [`Transaction`], which runs under a deadline of its caller's, and brings those of Kafka itself. After
//! a call that failed, ran out of time or was dropped midway, an implementation makes a new connection
//! for the next one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use domain::{EventId, NewEvent, Position, Received};
use messaging::{Fetched, KafkaError};
use storage::StorageError;
use storage::inbox::dead_letters::{Amount, DeadLetter, Ending, Stored};
use storage::inbox::retention::{Sweep, Swept};
use storage::inbox::{Opened, Progress, Stream};
use storage::lease::{Keeper, Leases, MemberId, Snapshot};
use uuid::Uuid;

use crate::apply::error::EffectError;
use crate::handlers::Event;

/// Of a single statement.
pub const STATEMENT_DEADLINE: Duration = Duration::from_secs(10);

/// Of [`Inbox::lease_snapshot`]: what is seen later says little.
pub const LEASE_DEADLINE: Duration = Duration::from_secs(5);

/// Of the transaction of a batch, from [`Inbox::begin`] on, and of what is tried again within it. Its
/// caller keeps it; beyond what the session allows a transaction on the server's side.
pub const TRANSACTION_DEADLINE: Duration = Duration::from_secs(30);

/// Where inboxes and leases come from: the database that the consumers of a group share.
pub trait InboxFactory: Send + Sync {
    /// An inbox for the owner of a partition: everything ends on the server's side before the lease
    /// could have passed to somebody else. Connects when first used.
    fn leased(&self, lease_ttl: Duration) -> Box<dyn Inbox>;

    /// An inbox for work beside that of owners: short statements. Connects when first used.
    fn background(&self) -> Box<dyn Inbox>;

    /// The leases of a scope that has `units` units. Nothing happens before the keeper is driven.
    fn leases(&self, scope: &str, lease_ttl: Duration, units: i32) -> (Keeper, Leases);
}

/// What consumers ask of Postgres, over one connection.
#[async_trait]
pub trait Inbox: Send {
    /// Connects ahead of the next call, if there is no connection that may be used.
    ///
    /// # Errors
    /// When no connection can be made. The next call tries again.
    async fn connect(&mut self) -> Result<(), StorageError>;

    /// Where a group stands; `None` if it never consumed this partition.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn progress(&mut self, stream: &Stream) -> Result<Option<Progress>, StorageError>;

    /// Sets where a group begins in a partition that it never consumed; leaves one that it did.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn begin_at(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), StorageError>;

    /// Records the id of the topic in which a group stands at `next_offset`, unless one is recorded.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn identify(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Uuid,
    ) -> Result<(), StorageError>;

    /// Begins a transaction. It is rolled back unless [`Transaction::commit`] returns.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn begin(&mut self) -> Result<Box<dyn Transaction + '_>, StorageError>;

    /// Ends what a call that was dropped still does on the server: a statement that waits for a lock
    /// does not notice that nobody waits for it, and keeps the locks it has. Does its best, and fails
    /// silently.
    async fn cancel(&mut self);

    /// Who lives in a lease scope, and who owns what.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn lease_snapshot(&mut self, scope: &str) -> Result<Snapshot, StorageError>;

    /// The offsets at which a group stands in the partitions of a topic.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn next_offsets(
        &mut self,
        group: &str,
        topic: &str,
    ) -> Result<HashMap<i32, i64>, StorageError>;

    /// Whether an event older than `age` is still to be published: it may yet be delivered, twice.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn unpublished_older_than(&mut self, age: Duration) -> Result<bool, StorageError>;

    /// Looks at some inbox rows and deletes those that are old and whose newest copy Kafka no longer
    /// has.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn sweep(&mut self, sweep: &Sweep<'_>) -> Result<Swept, StorageError>;

    /// Deletes dead letters that were settled long ago and that Kafka no longer has; returns how many.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn sweep_dead_letters(&mut self, sweep: &Sweep<'_>) -> Result<i64, StorageError>;
}

/// A transaction that is open. All of it happens or nothing.
///
/// Dropped before it has ended, it is rolled back. After a call that failed only
/// [`rollback`](Self::rollback) may follow, but for [`try_apply`](Self::try_apply).
#[async_trait]
pub trait Transaction: Send {
    /// Opens the batch of the offsets `first..=last`: locks the group's offset against every other
    /// consumer and the lease against a new owner. `None` unless `owner` owns the partition under
    /// `epoch` and the group stands at `first` of this topic exactly. See [`storage::inbox::fence`].
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn fence(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
        topic_id: Option<Uuid>,
        owner: MemberId,
        epoch: i64,
    ) -> Result<Option<Opened>, StorageError>;

    /// Which of `keys` are held back. They stay so until the transaction ends. See
    /// [`storage::inbox::dead_letters::held_keys`].
    ///
    /// # Errors
    /// When Postgres cannot be asked, or a command takes too long to decide on a key.
    async fn held_keys(
        &mut self,
        stream: &Stream,
        keys: &[&[u8]],
    ) -> Result<HashSet<Vec<u8>>, StorageError>;

    /// The records at the offsets `first..=last` that were held before, settled or not.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn held_before(
        &mut self,
        stream: &Stream,
        offsets: (i64, i64),
    ) -> Result<Vec<Stored>, StorageError>;

    /// Records events, each with the offset of its newest copy, of which none is in the inbox yet.
    /// False if one is: the transaction has failed then.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn record_unmet(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<bool, StorageError>;

    /// Records events; returns those that were not in the inbox.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn record(
        &mut self,
        stream: &Stream,
        events: &[(EventId, i64)],
    ) -> Result<HashSet<EventId>, StorageError>;

    /// Moves the rows of events that arrived again to their newest copy, and lets their age begin
    /// again.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn follow_copies(
        &mut self,
        stream: &Stream,
        copies: &[(EventId, i64)],
    ) -> Result<(), StorageError>;

    /// Takes back what was recorded in this transaction: the effect did not happen after all.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn unrecord(&mut self, group: &str, events: &[EventId]) -> Result<(), StorageError>;

    /// Applies events by their handlers, in order.
    ///
    /// # Errors
    /// That of the first handler that fails.
    async fn apply(&mut self, events: &[Received<Event>]) -> Result<(), EffectError>;

    /// The same under a savepoint: after a failure the transaction is as it was before.
    ///
    /// # Errors
    /// That of the first handler that fails, or that Postgres cannot be asked. The transaction goes on
    /// only if an event is to blame, see [`EffectError::blames_an_event`].
    async fn try_apply(&mut self, events: &[Received<Event>]) -> Result<(), EffectError>;

    /// Whether the server words its errors as [`EffectError::blames_an_event`] reads them.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn messages_are_english(&mut self) -> Result<bool, StorageError>;

    /// Holds records. Returns the first offset at which another one is held already: the transaction
    /// is to be rolled back then.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn hold(
        &mut self,
        stream: &Stream,
        letters: &[DeadLetter],
    ) -> Result<Option<i64>, StorageError>;

    /// Appends events to the outbox.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn append(&mut self, events: &[NewEvent]) -> Result<(), StorageError>;

    /// Closes a batch: the group stands at `progress` now. [`Self::fence`] came first.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn advance(&mut self, stream: &Stream, progress: Progress) -> Result<(), StorageError>;

    /// Sets the next offset, even if a process owns the partition: the owner meets its fence and
    /// continues from there.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn reset(
        &mut self,
        stream: &Stream,
        next_offset: i64,
        topic_id: Option<Uuid>,
    ) -> Result<(), StorageError>;

    /// The key of the unsettled record at a position: `None` if there is none, `Some(None)` if it has
    /// no key.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn key_of(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Option<Vec<u8>>>, StorageError>;

    /// Keeps owners from blocking behind a key, and other commands from deciding on it, until the
    /// transaction ends.
    ///
    /// # Errors
    /// When Postgres cannot be asked, or the owner takes too long for its batch.
    async fn lock_key(&mut self, group: &str, topic: &str, key: &[u8]) -> Result<(), StorageError>;

    /// The first records held of a key, in the order in which they must be applied.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn unsettled_of_key(
        &mut self,
        group: &str,
        topic: &str,
        key: &[u8],
        amount: Amount,
    ) -> Result<Vec<Stored>, StorageError>;

    /// The record held at a position, if it has no key; locked until the transaction ends.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn unsettled_without_key(
        &mut self,
        group: &str,
        position: &Position,
    ) -> Result<Option<Stored>, StorageError>;

    /// Settles held records, by partition and offset.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn settle(
        &mut self,
        group: &str,
        topic: &str,
        places: &[(i32, i64)],
        ending: Ending,
    ) -> Result<(), StorageError>;

    /// Notes that a held record was tried again in vain, and why: it is a dead letter from here on.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    async fn rejected(
        &mut self,
        group: &str,
        position: &Position,
        reason: &str,
    ) -> Result<(), StorageError>;

    /// Commits.
    ///
    /// # Errors
    /// Whether it happened may be unknown then: the fence of the next batch tells.
    async fn commit(self: Box<Self>) -> Result<(), StorageError>;

    /// Rolls back.
    ///
    /// # Errors
    /// When Postgres cannot be asked. The transaction then ends with its connection.
    async fn rollback(self: Box<Self>) -> Result<(), StorageError>;
}

/// Kafka as consumers know it: topics, and records to read.
#[async_trait]
pub trait RecordSource: Send + Sync {
    /// The number of partitions of each topic.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError>;

    /// Creates a topic unless it exists; returns whether it did create it.
    ///
    /// # Errors
    /// When Kafka gives no answer, refuses, or there can be no such topic.
    async fn ensure_topic(
        &self,
        topic: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<bool, KafkaError>;

    /// A reader of one partition. Connects when first used.
    fn reader(&self, topic: &str, partition: i32) -> Box<dyn RecordReader>;
}

/// Reads one partition. All fetches of a reader are from the same topic: when it is deleted and created
/// again, the next one fails.
#[async_trait]
pub trait RecordReader: Send {
    /// Kafka's id of the topic that is read: another one if it was deleted and created again. `None`
    /// where brokers do not know topics by id.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    async fn topic_id(&mut self) -> Result<Option<Uuid>, KafkaError>;

    /// Fetches from `offset` on: as soon as there is a record, or after `max_wait` with none. About
    /// `max_bytes` at most; one larger record still comes whole. Waits before for as long as a quota
    /// demands. Cancellation safe.
    ///
    /// # Errors
    /// [`messaging::ErrorKind::OutOfRange`] if the partition does not have `offset`.
    async fn fetch(
        &mut self,
        offset: i64,
        max_bytes: i32,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError>;

    /// The lowest offset the partition still has.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    async fn earliest(&mut self) -> Result<i64, KafkaError>;

    /// The offset that the next record will have; that of the first open transaction if there is one.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    async fn latest(&mut self) -> Result<i64, KafkaError>;

    /// The offset of the first record that was written at most `age` ago, by the clock of whoever
    /// asks; [`Self::latest`] if there is none.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    async fn first_younger_than(&mut self, age: Duration) -> Result<i64, KafkaError>;
}
