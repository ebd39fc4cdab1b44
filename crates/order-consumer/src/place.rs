//! Where a group stands in a partition, and whether that is still the partition it was.

use std::time::Duration;

use domain::EventId;
use messaging::{Failure, KafkaError, PartitionReader, envelope};
use storage::inbox::{self, Progress, Stream};
use storage::{Connection, StorageError, within};

use crate::partition::StepError;

const DEADLINE: Duration = Duration::from_secs(10);

/// The place where the group stands is not to be found. Nothing is skipped: the partition stands
/// still until `order-consumer offsets reset` says where to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "offset {next_offset} of {topic}/{partition} is not there (the partition has {earliest} to \
         {latest}): data was deleted before it was consumed, or the topic was made anew; \
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
        "the record at offset {offset} of {topic}/{partition} is not the one consumed there \
         (event {found} instead of {expected}): the topic was made anew; nothing is skipped, the \
         partition stands still until `order-consumer offsets reset`"
    )]
    Recreated {
        topic: String,
        partition: i32,
        offset: i64,
        expected: EventId,
        found: String,
    },
    #[error(
        "the record batch at offset {offset} of {topic}/{partition} cannot be read: {reason}; \
         nothing is skipped, the partition stands still until `order-consumer offsets \
         reset`{}", behind.map(|end| format!(", to {end} if the batch is to be passed over")).unwrap_or_default()
    )]
    Unreadable {
        topic: String,
        partition: i32,
        offset: i64,
        /// Where the next batch begins, if that is known.
        behind: Option<i64>,
        reason: String,
    },
}

/// What was recorded last.
///
/// # Errors
/// When Postgres cannot be asked.
pub(crate) async fn known(
    conn: &mut Connection,
    stream: &Stream,
) -> Result<Option<Progress>, StorageError> {
    within(DEADLINE, inbox::progress(conn, stream)).await
}

/// Where the group stands according to what was recorded; at the partition's beginning if it never
/// was here.
///
/// # Errors
/// When Kafka or Postgres cannot be asked, or the partition is another one than it was.
pub(crate) async fn find(
    conn: &mut Connection,
    reader: &mut PartitionReader,
    stream: &Stream,
    known: Option<Progress>,
) -> Result<i64, StepError> {
    if let Some(progress) = known {
        recognise(reader, stream, progress).await?;
        return Ok(progress.next_offset);
    }
    let earliest = reader.earliest().await?;
    within::<_, StorageError>(DEADLINE, inbox::begin_at(conn, stream, earliest)).await?;
    Ok(earliest)
}

/// Compares the record before the place with what was there when it was consumed. What Kafka no
/// longer has cannot be compared; what is missing from there on, the next fetch finds out.
async fn recognise(
    reader: &mut PartitionReader,
    stream: &Stream,
    progress: Progress,
) -> Result<(), StepError> {
    let Some(expected) = progress.last_event_id else {
        return Ok(());
    };
    let offset = progress.next_offset - 1;
    let fetched = match reader.fetch(offset, 1, Duration::ZERO).await {
        Ok(fetched) => fetched,
        Err(error) if error.failure() == Failure::OutOfRange => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(record) = fetched.records.iter().find(|r| r.offset == offset) else {
        return Ok(());
    };
    let found = match envelope::decode(record) {
        Ok(envelope) if envelope.event_id == expected => return Ok(()),
        Ok(envelope) => envelope.event_id.to_string(),
        Err(invalid) => invalid.to_string(),
    };
    Err(StepError::Place(PlaceError::Recreated {
        topic: stream.topic.clone(),
        partition: stream.partition,
        offset,
        expected,
        found,
    }))
}

/// The place, if what is there cannot be read.
pub(crate) fn unreadable(stream: &Stream, error: &KafkaError) -> Option<PlaceError> {
    let KafkaError::Unreadable {
        offset,
        end,
        reason,
    } = error
    else {
        return None;
    };
    Some(PlaceError::Unreadable {
        topic: stream.topic.clone(),
        partition: stream.partition,
        offset: *offset,
        behind: *end,
        reason: reason.clone(),
    })
}

/// Describes a place that Kafka does not have.
///
/// # Errors
/// When Kafka cannot be asked.
pub(crate) async fn out_of_range(
    reader: &mut PartitionReader,
    stream: &Stream,
    next_offset: i64,
) -> Result<PlaceError, KafkaError> {
    Ok(PlaceError::OutOfRange {
        topic: stream.topic.clone(),
        partition: stream.partition,
        next_offset,
        earliest: reader.earliest().await?,
        latest: reader.latest().await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_batch_is_told_with_the_way_around_it() {
        let stream = Stream {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: 3,
        };
        let said = |end| {
            let error = KafkaError::Unreadable {
                offset: 7,
                end,
                reason: "damaged".to_owned(),
            };
            unreadable(&stream, &error).unwrap().to_string()
        };
        assert_eq!(
            said(Some(12)),
            "the record batch at offset 7 of t/3 cannot be read: damaged; nothing is skipped, the \
             partition stands still until `order-consumer offsets reset`, to 12 if the batch is to \
             be passed over"
        );
        assert!(said(None).ends_with("until `order-consumer offsets reset`"));
        let other = KafkaError::Connection("closed".to_owned());
        assert_eq!(unreadable(&stream, &other), None);
    }
}
