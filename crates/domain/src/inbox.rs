//! The receiving side's values: a record's place in Kafka, and an event that was received there.

use std::fmt;

use crate::outbox::EventId;

/// Where a record lies in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// The topic on which a consumer announces records of `topic` that it could not apply.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}.dlq")
}

/// An event that arrived, validated, with the offset it arrived at.
/// Its id decides whether its effect has happened already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<E> {
    pub event_id: EventId,
    /// Within the partition the batch was fetched from.
    pub offset: i64,
    pub event: E,
}

impl<E> Received<E> {
    /// The same, with the event as `convert` sees it.
    pub fn map<'a, T>(&'a self, convert: impl FnOnce(&'a E) -> T) -> Received<T> {
        Received {
            event_id: self.event_id,
            offset: self.offset,
            event: convert(&self.event),
        }
    }
}
