//! Event types: what is announced, and how every version ever written is read.
//!
//! An event type is a folder here: its type, its [`EventType`], and for each version a JSON Schema and
//! a sample as it was written. Writers write the newest version only; readers read all of them for
//! ever. Older versions are lifted into today's type while decoding, so that nothing after this module
//! knows of versions.

#[cfg(test)]
mod compatibility;
pub mod order_cancelled;
pub mod order_created;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::outbox::{Content, EventId, NewEvent};

/// A type of event: where it travels, what it is called, and how it is read.
pub trait EventType: Sized + Send + Sync + 'static {
    /// Its name, as in the record header `ce_type`.
    const TYPE: &'static str;
    /// The Kafka topic of its events. Several types may share a topic.
    const TOPIC: &'static str;
    /// The version writers write; all from 1 on are read.
    const VERSION: i16;

    /// Reads an event of any version. Unknown fields are ignored.
    ///
    /// A type whose payload is not JSON takes the bytes as they are; one for which a tombstone is an
    /// event says so here.
    ///
    /// # Errors
    /// When the version is unknown or the payload is not of it. Permanent: the same bytes never decode
    /// later.
    fn decode(event: &EncodedEvent<'_>) -> Result<Self, DecodeError>;
}

/// An event as its record has it.
#[derive(Debug, Clone, Copy)]
pub struct EncodedEvent<'a> {
    pub schema_version: i32,
    /// Media type of the payload, if the record says it.
    pub content_type: Option<&'a str>,
    /// `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// When the event was created, for versions whose payload does not say.
    pub time: OffsetDateTime,
}

/// Why a record is not an event of its type.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{event_type} has no schema version {version}; the newest is {newest}")]
    UnknownVersion {
        event_type: &'static str,
        version: i32,
        newest: i16,
    },
    #[error("invalid {event_type}, version {version}: {source}")]
    Payload {
        event_type: &'static str,
        version: i32,
        source: serde_json::Error,
    },
    #[error("tombstone: the record has no value, but {event_type} needs one")]
    Tombstone { event_type: &'static str },
    /// For event types with an encoding of their own.
    #[error("invalid {event_type}, version {version}: {reason}")]
    Encoding {
        event_type: &'static str,
        version: i32,
        reason: String,
    },
}

impl EncodedEvent<'_> {
    /// The payload of an `E`, from JSON.
    ///
    /// # Errors
    /// If there is no payload, or it is not a `T`.
    pub fn json<E: EventType, T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        let payload = self.payload.ok_or(DecodeError::Tombstone {
            event_type: E::TYPE,
        })?;
        serde_json::from_slice(payload).map_err(|source| DecodeError::Payload {
            event_type: E::TYPE,
            version: self.schema_version,
            source,
        })
    }

    /// The error of [`EventType::decode`] for a version that `E` does not have.
    pub fn unknown_version<E: EventType>(&self) -> DecodeError {
        DecodeError::UnknownVersion {
            event_type: E::TYPE,
            version: self.schema_version,
            newest: E::VERSION,
        }
    }
}

impl NewEvent {
    /// A JSON event of the newest version, with an id of its own.
    ///
    /// # Panics
    /// If `event` has no JSON form, which is a defect of its type.
    pub fn of<E: EventType + Serialize>(event: &E, key: String, source: &'static str) -> Self {
        let payload = serde_json::to_string(event).expect("event types serialize to JSON");
        Self {
            event_id: EventId::generate(),
            topic: E::TOPIC.to_owned(),
            key,
            event_type: E::TYPE.to_owned(),
            schema_version: E::VERSION,
            source: Some(Cow::Borrowed(source)),
            content: Some(Content::json(payload)),
            headers: BTreeMap::new(),
        }
    }
}
