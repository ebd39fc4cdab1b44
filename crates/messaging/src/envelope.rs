//! How an event looks as a record: its payload is the value, its attributes are headers named as
//! CloudEvents' Kafka binding in binary mode names them.

use std::collections::BTreeMap;

use domain::{EventId, OutboxEvent};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::reader::IncomingRecord;
use crate::writer::OutgoingRecord;

const SPEC_VERSION: &str = "ce_specversion";
const ID: &str = "ce_id";
const TYPE: &str = "ce_type";
const SOURCE: &str = "ce_source";
const TIME: &str = "ce_time";
const SCHEMA_VERSION: &str = "ce_schemaversion";
const CONTENT_TYPE: &str = "content-type";

/// Where events of this project come from.
const ORDER_API: &str = "/order-api";

/// The record of an event: key, value as committed, headers. The event's own headers cannot
/// replace those named here.
pub fn encode(event: &OutboxEvent) -> OutgoingRecord {
    let time = event
        .created_at
        .format(&Rfc3339)
        .expect("Postgres' times lie within the years of RFC 3339");
    let mut headers: BTreeMap<String, Vec<u8>> = event
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
        .collect();
    for (name, value) in [
        (SPEC_VERSION, "1.0".to_owned()),
        (ID, event.event_id.to_string()),
        (TYPE, event.event_type.clone()),
        (SOURCE, ORDER_API.to_owned()),
        (TIME, time),
        (SCHEMA_VERSION, event.schema_version.to_string()),
        (CONTENT_TYPE, "application/json".to_owned()),
    ] {
        headers.insert(name.to_owned(), value.into_bytes());
    }
    OutgoingRecord {
        key: event.key.clone().into_bytes(),
        value: event.payload.clone().into_bytes(),
        headers,
    }
}

/// An upper bound of what the event's record takes in a produce request, in bytes, and close to it.
pub fn encoded_size(event: &OutboxEvent) -> usize {
    // A header: two lengths of at most 3 bytes each, name and value. The fixed seven have 70 bytes
    // of names and 96 of values beside the event's type.
    const HEADER_LENGTHS: usize = 6;
    const FIXED: usize = 7 * HEADER_LENGTHS + 70 + 96;
    // Length, attributes, two deltas, the lengths of key and value, the count of headers.
    const RECORD: usize = 5 + 1 + 5 + 5 + 5 + 5 + 3;
    let own: usize = event
        .headers
        .iter()
        .map(|(name, value)| HEADER_LENGTHS + name.len() + value.len())
        .sum();
    RECORD + FIXED + own + event.event_type.len() + event.key.len() + event.payload.len()
}

/// What a record's headers say of the event it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub event_id: EventId,
    pub event_type: String,
    pub schema_version: i32,
    /// When the event was created; that of the record where the header is missing, as CloudEvents
    /// allows.
    pub time: OffsetDateTime,
}

/// Headers that make no [`Envelope`]. Permanent: the same record never reads otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnvelope {
    #[error("missing header {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    #[error("header {name} has the value {value:?}; expected is {expected}")]
    Value {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
}

/// Reads a record's headers. Names are case-sensitive.
///
/// # Errors
/// Names every missing header, or the first one whose value is wrong.
pub fn decode(record: &IncomingRecord) -> Result<Envelope, InvalidEnvelope> {
    let missing: Vec<&'static str> = [SPEC_VERSION, ID, TYPE, SCHEMA_VERSION]
        .into_iter()
        .filter(|name| !record.headers.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        return Err(InvalidEnvelope::Missing(missing));
    }
    let text = |name| String::from_utf8_lossy(&record.headers[name]).into_owned();
    let wrong = |name, value, expected| InvalidEnvelope::Value {
        name,
        value,
        expected,
    };
    let spec_version = text(SPEC_VERSION);
    if spec_version != "1.0" {
        return Err(wrong(SPEC_VERSION, spec_version, "1.0"));
    }
    let id = text(ID);
    let version = text(SCHEMA_VERSION);
    let time = match record.headers.contains_key(TIME).then(|| text(TIME)) {
        None => record.timestamp,
        Some(time) => OffsetDateTime::parse(&time, &Rfc3339)
            .map_err(|_| wrong(TIME, time, "a time as in RFC 3339"))?,
    };
    Ok(Envelope {
        event_id: id.parse().map_err(|_| wrong(ID, id, "a UUID"))?,
        event_type: text(TYPE),
        schema_version: version
            .parse()
            .map_err(|_| wrong(SCHEMA_VERSION, version, "a whole number"))?,
        time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> OutboxEvent {
        OutboxEvent {
            event_id: EventId::generate(),
            topic: "order.created".to_owned(),
            key: "k".to_owned(),
            event_type: "OrderCreated".to_owned(),
            schema_version: 2,
            payload: r#"{ "spaced" : 1 }"#.to_owned(),
            headers: [("traceparent", "00-aa-bb-01"), ("ce_id", "forged")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            created_at: time::macros::datetime!(2026-01-02 03:04:05.123_456 UTC),
        }
    }

    fn as_received(sent: OutgoingRecord) -> IncomingRecord {
        IncomingRecord {
            offset: 7,
            timestamp: OffsetDateTime::UNIX_EPOCH,
            key: Some(sent.key),
            value: Some(sent.value),
            headers: sent.headers,
            odd_headers: Vec::new(),
        }
    }

    #[test]
    fn a_record_reads_back_as_the_event_it_was() {
        let event = event();
        let record = as_received(encode(&event));
        assert_eq!(record.value.as_deref(), Some(event.payload.as_bytes()));
        assert_eq!(record.headers["traceparent"], b"00-aa-bb-01");
        assert_eq!(record.headers["ce_source"], b"/order-api");
        assert_eq!(
            decode(&record),
            Ok(Envelope {
                event_id: event.event_id,
                event_type: event.event_type,
                schema_version: 2,
                time: event.created_at,
            })
        );
    }

    #[test]
    fn the_size_is_a_close_upper_bound() {
        let event = event();
        let record = encode(&event);
        let contents: usize = record
            .headers
            .iter()
            .map(|(name, value)| 2 + name.len() + value.len())
            .sum::<usize>()
            + record.key.len()
            + record.value.len();
        let bound = encoded_size(&event);
        assert!(
            (contents..contents + 120).contains(&bound),
            "{contents} {bound}"
        );
    }

    #[test]
    fn missing_and_wrong_headers_are_named() {
        let whole = as_received(encode(&event()));
        let mut record = whole.clone();
        record.headers.remove("ce_id");
        record.headers.remove("ce_type");
        record.headers.insert("CE_ID".to_owned(), b"x".to_vec());
        assert_eq!(
            decode(&record).unwrap_err().to_string(),
            "missing header ce_id, ce_type"
        );
        for (name, value) in [
            ("ce_specversion", "0.3"),
            ("ce_id", "17"),
            ("ce_schemaversion", "two"),
            ("ce_time", "yesterday"),
        ] {
            let mut record = whole.clone();
            record.headers.insert(name.to_owned(), value.into());
            let error = decode(&record).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        let mut record = whole;
        record.headers.remove("ce_time");
        assert_eq!(decode(&record).unwrap().time, OffsetDateTime::UNIX_EPOCH);
    }
}
