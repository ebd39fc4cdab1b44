//! What the relay asks of Postgres and of Kafka. The relay's own code knows them by these traits only;
//! [`crate::adapters`] answers with the real ones, and the simulation with its own.
//!
//! Every call has a deadline: see the constants. A call that fails may have happened all the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::Slot;
use messaging::{KafkaError, OutgoingRecord};
use storage::StorageError;
use storage::lease::{LeaseTable, MemberId};
use storage::outbox::{
    Backlog, Batch, BatchLimits, Cleaned, Done, HeldCounts, HeldEvents, Hold, HorizonHolder,
    LowestPending, MoveFrom, Orphan, Settled, UnavailableGroup,
};

/// Deadline of every call to Postgres but those below, once connected.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of a call to Postgres that looks at the outbox from beside the pipeline.
pub const LOOK_DEADLINE: Duration = Duration::from_secs(4);
/// A read has its limit, and Postgres this long to say that it ran into it.
pub const READ_GRACE: Duration = Duration::from_secs(2);

/// The two ports. Clones share them.
#[derive(Clone)]
pub struct Ports {
    pub outbox: Arc<dyn Outbox>,
    pub producer: Arc<dyn Producer>,
}

/// The outbox in Postgres, and the leases of its slots.
pub trait Outbox: Send + Sync {
    /// A connection of its own for a task. Connects when first used, and again after a call that
    /// failed or was dropped.
    fn connection(&self, role: Role) -> Box<dyn OutboxConnection>;

    /// The leases of the slots, over a connection of its own.
    fn leases(&self) -> Box<dyn LeaseTable>;

    /// What a statement of the pipeline may take, unless reads are limited otherwise.
    fn statement_timeout(&self) -> Duration;
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Work under the leases: no statement outlives them.
    Pipeline,
    /// Looks and deletes that may take longer.
    Maintenance,
}

/// Calls of one task, one after the other.
#[async_trait]
pub trait OutboxConnection: Send + Sync {
    /// Makes sure that the next call is sent at once.
    async fn connect(&mut self) -> Result<(), StorageError>;

    /// Limits what each later read may take. It holds no lock, so it may take longer than other calls.
    fn limit_reads(&mut self, limit: Duration);

    /// See [`storage::outbox::read_pending`]. A read.
    async fn read_pending(
        &mut self,
        slots: &[Slot],
        limits: BatchLimits,
        default_source: &str,
    ) -> Result<Batch, StorageError>;

    /// See [`storage::outbox::unavailable_groups`]. A read.
    async fn unavailable_groups(
        &mut self,
        slots: &[Slot],
    ) -> Result<Vec<UnavailableGroup>, StorageError>;

    /// See [`storage::outbox::remove_orphans`].
    async fn remove_orphans(&mut self, orphans: &[Orphan]) -> Result<usize, StorageError>;

    /// See [`storage::outbox::settle`].
    async fn settle(&mut self, events: &mut [Settled]) -> Result<usize, StorageError>;

    /// See [`storage::outbox::hold`].
    async fn hold(
        &mut self,
        member: MemberId,
        holds: &[Hold],
    ) -> Result<Vec<HeldEvents>, StorageError>;

    /// See [`storage::outbox::move_back`].
    async fn move_back(
        &mut self,
        member: MemberId,
        of: (Slot, i64),
        from: MoveFrom<'_>,
        limit: i64,
    ) -> Result<i64, StorageError>;

    /// See [`storage::outbox::clean`].
    async fn clean(
        &mut self,
        done: Done,
        retention: Duration,
        after: Option<i64>,
        rows: i64,
    ) -> Result<Option<Cleaned>, StorageError>;

    /// See [`storage::outbox::backlog`] and [`storage::outbox::held_counts`].
    async fn counts(&mut self, bound: i64) -> Result<(Backlog, HeldCounts), StorageError>;

    /// See [`storage::outbox::horizon_holders`].
    async fn horizon_holders(&mut self) -> Result<Vec<HorizonHolder>, StorageError>;

    /// See [`storage::outbox::slots_to_watch`].
    async fn slots_to_watch(&mut self, member: MemberId) -> Result<Vec<Slot>, StorageError>;

    /// See [`storage::outbox::still_waiting`].
    async fn still_waiting(&mut self, events: &[(Slot, i64)])
    -> Result<HashSet<i64>, StorageError>;

    /// See [`storage::outbox::lowest_pending`].
    async fn lowest_pending(&mut self, slots: &[Slot]) -> Result<Vec<LowestPending>, StorageError>;

    /// Subscribes to wake-ups: [`Self::wake_up`] returns for each commit from here on.
    async fn listen(&mut self) -> Result<(), StorageError>;

    /// Waits, without a deadline, for a wake-up: events were committed.
    async fn wake_up(&mut self) -> Result<(), StorageError>;
}

/// Kafka, as far as the relay needs it.
#[async_trait]
pub trait Producer: Send + Sync {
    /// The number of partitions of each topic.
    async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError>;

    /// Creates a topic; false when it exists.
    async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<bool, KafkaError>;

    /// A writer of one partition. Connects when first used.
    fn writer(&self, topic: &str, partition: i32) -> Box<dyn RecordWriter>;
}

/// Writes to one partition, one request at a time. See [`messaging::PartitionWriter`].
#[async_trait]
pub trait RecordWriter: Send + Sync {
    /// Appends records in order and returns the offset of the first.
    async fn produce(&mut self, records: Vec<OutgoingRecord>) -> Result<i64, KafkaError>;

    /// Closes the connection once it has been idle for long; waits for that.
    ///
    /// # Cancellation
    /// Dropped midway, nothing has happened.
    async fn close_when_idle(&mut self);
}
