//! What one step of a partition's consumer did, or why it failed.

use domain::EventId;
use messaging::KafkaError;
use storage::StorageError;
use uuid::Uuid;

use crate::apply::error::EffectError;
use crate::apply::transaction::Applied;

/// What one [`PartitionConsumer::step`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Applied(Applied),
    /// Kafka has nothing new.
    Empty,
    /// The batch was dropped: the partition has another owner, or the offset was moved.
    Fenced,
}

/// Why a step failed. Every failed step is tried again.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// Nothing is skipped: the partition stands still until it is reset.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// An event may be to blame. It is held once the batch has failed too often.
    #[error("attempt {attempt}: {source}")]
    Handler { attempt: i32, source: EffectError },
    /// Neither an outage nor an event is to blame: the partition stands still until an operator
    /// decides.
    #[error(transparent)]
    Undecided(EffectError),
}

/// The group's position is not in the partition. Nothing is skipped: the partition stands still
/// until `order-consumer offsets reset`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    #[error(
        "offset {next_offset} of {topic}/{partition} is out of range (the partition has {earliest} to \
         {latest}): records were deleted before they were consumed, or the topic was created again; \
         nothing is skipped, the partition stands still until `order-consumer offsets reset`"
    )]
    OutOfRange {
        topic: String,
        partition: i32,
        next_offset: i64,
        earliest: i64,
        latest: i64,
    },
    #[error(
        "{topic}/{partition} was consumed up to offset {next_offset} of another topic of this name \
         (id {expected}, now {found}): it was deleted and created again; nothing is skipped, the \
         partition stands still until `order-consumer offsets reset`"
    )]
    AnotherTopic {
        topic: String,
        partition: i32,
        next_offset: i64,
        expected: Uuid,
        found: Uuid,
    },
    #[error(
        "the record at offset {offset} of {topic}/{partition} is not the one consumed there{}: the \
         topic was deleted and created again, or Kafka lost records; nothing is skipped, the \
         partition stands still until `order-consumer offsets reset`",
        events.as_ref().map(|(expected, found)| format!(" (event {found} instead of {expected})"))
            .unwrap_or_default()
    )]
    AnotherRecord {
        topic: String,
        partition: i32,
        offset: i64,
        /// The event that was consumed and the one found there, if known.
        events: Option<(EventId, String)>,
    },
    #[error(
        "the record batch at offset {offset} of {topic}/{partition} cannot be read: {reason}; \
         nothing is skipped, the partition stands still until `order-consumer offsets \
         reset`{}", end.map(|end| format!(", with --to {end} to skip the batch")).unwrap_or_default()
    )]
    Unreadable {
        topic: String,
        partition: i32,
        offset: i64,
        /// Where the next batch begins, if known.
        end: Option<i64>,
        reason: String,
    },
}
