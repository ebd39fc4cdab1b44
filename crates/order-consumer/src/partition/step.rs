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

/// Why a step failed. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// Nothing is skipped: the partition stands still until somebody says where to go on.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// An event may be to blame: it is held once the batch has failed too often.
    #[error("attempt {attempt}: {source}")]
    Handler { attempt: i32, source: EffectError },
    /// Nobody's outage and no event's fault: the partition stands still until somebody decides.
    #[error(transparent)]
    Undecided(EffectError),
}

/// The place where the group stands is not to be found. Nothing is skipped: the partition stands
/// still until `order-consumer offsets reset` says where to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    #[error(
        "offset {next_offset} of {topic}/{partition} is not there (the partition has {earliest} to \
         {latest}): data was deleted before it was consumed, or the topic was made again; \
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
         (id {expected}, now {found}): it was deleted and made again; nothing is skipped, the \
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
         topic was deleted and made again, or Kafka has lost records; nothing is skipped, the \
         partition stands still until `order-consumer offsets reset`",
        events.as_ref().map(|(expected, found)| format!(" (event {found} instead of {expected})"))
            .unwrap_or_default()
    )]
    AnotherRecord {
        topic: String,
        partition: i32,
        offset: i64,
        /// The one that was consumed and the one that is there, if that is known.
        events: Option<(EventId, String)>,
    },
    #[error(
        "the record batch at offset {offset} of {topic}/{partition} cannot be read: {reason}; \
         nothing is skipped, the partition stands still until `order-consumer offsets \
         reset`{}", end.map(|end| format!(", to {end} if the batch is to be passed over")).unwrap_or_default()
    )]
    Unreadable {
        topic: String,
        partition: i32,
        offset: i64,
        /// Where the next batch begins, if that is known.
        end: Option<i64>,
        reason: String,
    },
}
