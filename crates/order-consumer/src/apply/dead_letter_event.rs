//! The event that announces a dead letter on the dead letter topic.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domain::{Content, EventId, NewEvent, Position, dead_letter_topic};
use serde::Serialize;
use storage::inbox::dead_letters::DeadLetter;

use crate::apply::decode::brief;

/// Kafka refuses messages over 1 MB by default, and base64 makes a third more of every byte: what
/// has no room within these is left out. The table of dead letters has it whole.
const ROOM: usize = 600_000;

/// Who writes these events.
const SOURCE: &str = "/order-consumer";

/// What a header takes beside its bytes, before base64: braces, quotes, the words, padding.
const PER_HEADER: usize = 24;

/// Bytes are in base64 (RFC 4648, with padding).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    consumer_group: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: String,
    key: Option<String>,
    /// Size of a key that is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_omitted_bytes: Option<usize>,
    value: Option<String>,
    /// Size of a value that is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_omitted_bytes: Option<usize>,
    headers: Vec<Header>,
    /// Size of the headers, names and values, when all of them are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers_omitted_bytes: Option<usize>,
    /// Size of a record that was too large to be held: value and headers are missing everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    record_omitted_bytes: Option<i64>,
}

#[derive(Serialize)]
struct Header {
    name: String,
    value: Option<String>,
}

/// What is left of [`ROOM`].
struct Room(usize);

impl Room {
    /// Takes room for so many bytes, if there is that much.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }

    /// In base64, or only its size when there is no room.
    fn text_or_size(&mut self, bytes: Option<&Vec<u8>>) -> (Option<String>, Option<usize>) {
        match bytes {
            None => (None, None),
            Some(bytes) if self.take(bytes.len()) => (Some(text(bytes)), None),
            Some(bytes) => (None, Some(bytes.len())),
        }
    }

    fn headers_or_size(&mut self, letter: &DeadLetter) -> (Vec<Header>, Option<usize>) {
        let sizes = letter.headers.iter();
        let size = sizes
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        if !self.take(size + letter.headers.len() * PER_HEADER) {
            return (Vec::new(), Some(size));
        }
        let headers = letter.headers.iter().map(|(name, value)| Header {
            name: text(name),
            value: value.as_ref().map(text),
        });
        (headers.collect(), None)
    }
}

fn text(bytes: &Vec<u8>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Announces a record that was held as dead, at this place.
pub(crate) fn dead_letter_event(group: &str, position: &Position, letter: &DeadLetter) -> NewEvent {
    // What tells whose record it was comes first.
    let mut room = Room(ROOM);
    let (key, key_omitted_bytes) = room.text_or_size(letter.key.as_ref());
    let (headers, headers_omitted_bytes) = room.headers_or_size(letter);
    let (value, value_omitted_bytes) = room.text_or_size(letter.value.as_ref());
    let payload = Payload {
        consumer_group: group,
        topic: &position.topic,
        partition: position.partition,
        offset: position.offset,
        reason: brief(letter.reason.clone()),
        key,
        key_omitted_bytes,
        value,
        value_omitted_bytes,
        headers,
        headers_omitted_bytes,
        record_omitted_bytes: letter.omitted_bytes,
    };
    NewEvent {
        event_id: EventId::generate(),
        topic: dead_letter_topic(&position.topic),
        key: position.to_string(),
        event_type: "DeadLettered".to_owned(),
        schema_version: 1,
        source: Some(SOURCE.into()),
        content: Some(Content::json(
            serde_json::to_string(&payload).expect("text and whole numbers only"),
        )),
        headers: std::collections::BTreeMap::new(),
    }
}
