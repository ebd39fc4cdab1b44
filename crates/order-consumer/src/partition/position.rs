//! Where a group stands in a partition, and whether that is still the partition it was.

use std::time::Duration;

use messaging::{ErrorKind, KafkaError, envelope};
use storage::inbox::{Progress, Stream};
use uuid::Uuid;

use crate::partition::step::{PositionError, StepError};
use crate::ports::{Inbox, RecordReader};

/// A place that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) next_offset: i64,
    /// As it is recorded.
    pub(crate) topic_id: Option<Uuid>,
}

/// Where the group stands according to what was recorded; at the partition's beginning if it never
/// was here.
///
/// # Errors
/// When Kafka or Postgres cannot be asked, or the partition is another one than it was.
pub(crate) async fn find(
    inbox: &mut dyn Inbox,
    reader: &mut dyn RecordReader,
    stream: &Stream,
    known: Option<Progress>,
) -> Result<Found, StepError> {
    let topic_id = reader.topic_id().await?;
    let Some(progress) = known else {
        let next_offset = reader.earliest().await?;
        inbox.begin_at(stream, next_offset, topic_id).await?;
        return Ok(Found {
            next_offset,
            topic_id,
        });
    };
    let next_offset = progress.next_offset;
    if let (Some(expected), Some(found)) = (progress.topic_id, topic_id)
        && expected != found
    {
        return Err(StepError::Position(PositionError::AnotherTopic {
            topic: stream.topic.clone(),
            partition: stream.partition,
            next_offset,
            expected,
            found,
        }));
    }
    recognise(reader, stream, progress).await?;
    if let (None, Some(id)) = (progress.topic_id, topic_id) {
        inbox.identify(stream, next_offset, id).await?;
    }
    Ok(Found {
        next_offset,
        topic_id: progress.topic_id.or(topic_id),
    })
}

/// Compares the record before the place with what was there when it was consumed. What Kafka no
/// longer has cannot be compared; what is missing from there on, the next fetch finds out.
async fn recognise(
    reader: &mut dyn RecordReader,
    stream: &Stream,
    progress: Progress,
) -> Result<(), StepError> {
    let Some(expected) = progress.last_event_id else {
        return Ok(());
    };
    let offset = progress.next_offset - 1;
    let fetched = match reader.fetch(offset, 1, Duration::ZERO).await {
        Ok(fetched) => fetched,
        Err(error) if error.kind() == ErrorKind::OutOfRange => return Ok(()),
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
    Err(StepError::Position(PositionError::AnotherRecord {
        topic: stream.topic.clone(),
        partition: stream.partition,
        offset,
        events: Some((expected, found)),
    }))
}

/// The place, if a fetch failed because of what is there.
pub(crate) fn lost(stream: &Stream, error: &KafkaError) -> Option<PositionError> {
    let (topic, partition) = (stream.topic.clone(), stream.partition);
    match error {
        KafkaError::AnotherRecord { offset } => Some(PositionError::AnotherRecord {
            topic,
            partition,
            offset: *offset,
            events: None,
        }),
        KafkaError::Unreadable {
            offset,
            end,
            reason,
        } => Some(PositionError::Unreadable {
            topic,
            partition,
            offset: *offset,
            end: *end,
            reason: reason.clone(),
        }),
        _ => None,
    }
}

/// Describes a place that Kafka does not have.
///
/// # Errors
/// When Kafka cannot be asked.
pub(crate) async fn out_of_range(
    reader: &mut dyn RecordReader,
    stream: &Stream,
    next_offset: i64,
) -> Result<PositionError, KafkaError> {
    Ok(PositionError::OutOfRange {
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
    fn an_unreadable_batch_is_reported_with_the_way_around_it() {
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
            lost(&stream, &error).unwrap().to_string()
        };
        assert_eq!(
            said(Some(12)),
            "the record batch at offset 7 of t/3 cannot be read: damaged; nothing is skipped, the \
             partition stands still until `order-consumer offsets reset`, with --to 12 to skip the \
             batch"
        );
        assert!(said(None).ends_with("until `order-consumer offsets reset`"));
        let other = KafkaError::Connection("closed".to_owned());
        assert_eq!(lost(&stream, &other), None);
    }
}
