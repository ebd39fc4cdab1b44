//! The sending side's values: an event to be written, and where a written event stands.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// Identifies an event for ever and everywhere: the receiving side's idempotency key. A UUID v7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for EventId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// What an event carries as its record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Media type, such as `application/json`; at most 256 bytes.
    pub content_type: Cow<'static, str>,
    pub body: Body,
}

/// The bytes of a [`Content`]. Kafka gets them unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// JSON text.
    Json(String),
    /// Anything else, such as Avro or Protobuf with a registry's framing.
    Bytes(Vec<u8>),
}

impl Content {
    /// The media type of JSON.
    pub const JSON: &'static str = "application/json";

    /// JSON text, as `application/json`.
    pub fn json(text: String) -> Self {
        Self {
            content_type: Cow::Borrowed(Self::JSON),
            body: Body::Json(text),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match &self.body {
            Body::Json(text) => text.as_bytes(),
            Body::Bytes(bytes) => bytes,
        }
    }
}

/// An event as a writer hands it to the outbox, inside the transaction of what it announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub event_id: EventId,
    /// The Kafka topic it goes to.
    pub topic: String,
    /// Events of one topic and key keep their order; the key also picks the partition.
    pub key: String,
    pub event_type: String,
    pub schema_version: i16,
    /// Who writes it: a URI reference, such as `/order-api`. `None` leaves it to the relay's setting.
    pub source: Option<Cow<'static, str>>,
    /// `None` is a tombstone: it deletes its key from a compacted topic.
    pub content: Option<Content>,
    /// The event's own record headers, such as `traceparent`.
    pub headers: BTreeMap<String, String>,
}

/// An event as it was committed: what Kafka will get, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEvent {
    pub event_id: EventId,
    pub topic: String,
    pub key: String,
    pub event_type: String,
    pub schema_version: i16,
    /// Who wrote it: a URI reference.
    pub source: String,
    /// `None` for a tombstone.
    pub content: Option<Content>,
    /// The event's own record headers.
    pub headers: BTreeMap<String, String>,
    /// Start of the writing transaction.
    pub created_at: OffsetDateTime,
}

/// A share of the outbox: all events whose key hashes to it. Owned by one relay at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(i16);

/// A number that is not a [`Slot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a slot; slots are numbered from 0 to {max}", max = Slot::COUNT - 1)]
pub struct InvalidSlot(i32);

impl Slot {
    /// How many there are. Part of the stored data: the trigger on `outbox_event` numbers by it.
    pub const COUNT: i16 = 32;

    pub const fn number(self) -> i16 {
        self.0
    }

    /// All slots, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }
}

impl TryFrom<i32> for Slot {
    type Error = InvalidSlot;

    fn try_from(number: i32) -> Result<Self, Self::Error> {
        i16::try_from(number)
            .ok()
            .filter(|number| (0..Self::COUNT).contains(number))
            .map(Self)
            .ok_or(InvalidSlot(number))
    }
}

/// Where an event stands, as the view `outbox` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// Committed, not yet acknowledged by Kafka.
    Pending,
    /// Acknowledged by Kafka.
    Published,
    /// Held: it can never be produced.
    Dead,
    /// Held: an earlier event of its key is.
    Blocked,
    /// Held: its partition cannot be written.
    Unavailable,
    /// A dead letter that an operator discarded.
    Discarded,
    /// In no queue: written by a session that switched triggers off.
    Unqueued,
}

impl EventState {
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Published,
        Self::Dead,
        Self::Blocked,
        Self::Unavailable,
        Self::Discarded,
        Self::Unqueued,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Published => "published",
            Self::Dead => "dead",
            Self::Blocked => "blocked",
            Self::Unavailable => "unavailable",
            Self::Discarded => "discarded",
            Self::Unqueued => "unqueued",
        }
    }
}

/// A text that names no [`EventState`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state of an event")]
pub struct UnknownEventState(String);

impl FromStr for EventState {
    type Err = UnknownEventState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownEventState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_numbered_from_zero() {
        assert_eq!(Slot::all().count(), 32);
        assert_eq!(Slot::try_from(31).unwrap().number(), 31);
        assert_eq!(Slot::try_from(32), Err(InvalidSlot(32)));
        assert_eq!(Slot::try_from(-1), Err(InvalidSlot(-1)));
    }

    #[test]
    fn a_state_reads_back_from_its_name() {
        for state in EventState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("lost".parse::<EventState>().is_err());
    }
}
