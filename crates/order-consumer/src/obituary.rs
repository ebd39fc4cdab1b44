//! The event that announces a dead letter on the dead letter topic.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domain::{EventId, NewEvent, Position};
use serde::Serialize;
use storage::dead_letters::DeadLetter;

/// Kafka refuses messages over 1 MB by default, and base64 makes a third more of every byte: a
/// larger value is left out. The table of dead letters has it whole.
const LARGEST_VALUE: usize = 600_000;

/// Bytes are in base64 (RFC 4648, with padding).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    consumer_group: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    key: Option<String>,
    value: Option<String>,
    /// Size of a value that is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_omitted_bytes: Option<usize>,
    headers: Vec<Header>,
}

#[derive(Serialize)]
struct Header {
    name: String,
    value: String,
}

/// Announces a record that was held as dead, at this place.
pub(crate) fn obituary(group: &str, position: &Position, letter: &DeadLetter) -> NewEvent {
    let text = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
    let (value, omitted) = match &letter.value {
        Some(value) if value.len() > LARGEST_VALUE => (None, Some(value.len())),
        value => (value.as_ref().map(text), None),
    };
    let payload = Payload {
        consumer_group: group,
        topic: &position.topic,
        partition: position.partition,
        offset: position.offset,
        reason: &letter.reason,
        key: letter.key.as_ref().map(text),
        value,
        value_omitted_bytes: omitted,
        headers: letter
            .headers
            .iter()
            .map(|(name, value)| Header {
                name: text(name),
                value: text(value),
            })
            .collect(),
    };
    NewEvent {
        event_id: EventId::generate(),
        topic: format!("{}.dlq", position.topic),
        key: position.to_string(),
        event_type: "DeadLettered".to_owned(),
        schema_version: 1,
        payload: serde_json::to_string(&payload).expect("text and whole numbers only"),
        headers: std::collections::BTreeMap::new(),
    }
}
