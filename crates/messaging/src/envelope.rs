//! How an event looks as a record: its payload is the value, its attributes are headers named as
//! CloudEvents' Kafka binding in binary mode names them.

use std::collections::BTreeMap;

use domain::{EventId, OutboxEvent};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::produce::OutgoingRecord;
use crate::record::IncomingRecord;

const SPEC_VERSION: &str = "ce_specversion";
const ID: &str = "ce_id";
const TYPE: &str = "ce_type";
const SOURCE: &str = "ce_source";
const TIME: &str = "ce_time";
const SCHEMA_VERSION: &str = "ce_schemaversion";
const CONTENT_TYPE: &str = "content-type";

/// The record of an event: key, value as committed, headers. The event's own headers cannot
/// replace those named here. A tombstone has no content type.
pub fn encode(event: &OutboxEvent) -> OutgoingRecord {
    let time = event
        .created_at
        .format(&Rfc3339)
        .expect("the schema keeps times within the years of RFC 3339");
    let mut headers: BTreeMap<String, Vec<u8>> = event
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
        .collect();
    for (name, value) in [
        (SPEC_VERSION, "1.0".to_owned()),
        (ID, event.event_id.to_string()),
        (TYPE, event.event_type.clone()),
        (SOURCE, event.source.clone()),
        (TIME, time),
        (SCHEMA_VERSION, event.schema_version.to_string()),
    ] {
        headers.insert(name.to_owned(), value.into_bytes());
    }
    match &event.content {
        Some(content) => {
            let content_type = content.content_type.as_bytes().to_vec();
            headers.insert(CONTENT_TYPE.to_owned(), content_type);
        }
        None => drop(headers.remove(CONTENT_TYPE)),
    }
    OutgoingRecord {
        key: event.key.clone().into_bytes(),
        value: event.content.as_ref().map(|c| c.as_bytes().to_vec()),
        headers,
    }
}

/// What the event's record takes in a produce request, in bytes: an upper bound, and at most
/// [`SIZE_SLACK`] too much unless the event's own headers repeat names of [`encode`].
pub fn encoded_size(event: &OutboxEvent) -> usize {
    // The longest that a batch of less than a million records needs.
    const OFFSET_DELTA: usize = 3;
    const ATTRIBUTES_AND_TIME_DELTA: usize = 2;
    const FIXED: [(&str, usize); 2] = [(SPEC_VERSION, 3), (ID, 36)];
    let varying = [
        (TYPE, event.event_type.len()),
        (SOURCE, event.source.len()),
        (TIME, rfc_3339_length(event.created_at)),
        (SCHEMA_VERSION, decimal_length(event.schema_version)),
    ];
    let content = event.content.as_ref();
    let content_type = content.map(|content| (CONTENT_TYPE, content.content_type.len()));
    let own = event.headers.iter();
    let own = own.map(|(name, value)| (name.as_str(), value.len()));
    let headers = FIXED
        .into_iter()
        .chain(varying)
        .chain(content_type)
        .chain(own);
    let (count, headers) = headers.fold((0, 0), |(count, bytes), (name, value)| {
        (count + 1, bytes + prefixed(name.len()) + prefixed(value))
    });
    prefixed(
        ATTRIBUTES_AND_TIME_DELTA
            + OFFSET_DELTA
            + prefixed(event.key.len())
            + content.map_or(1, |content| prefixed(content.as_bytes().len()))
            + varint_length(count)
            + headers,
    )
}

/// See [`encoded_size`]: two bytes for the record's place in its batch, and one where these make the
/// record's length a byte longer.
pub const SIZE_SLACK: usize = 3;

/// So many bytes, and their number before them.
fn prefixed(bytes: usize) -> usize {
    varint_length(bytes) + bytes
}

/// Seven bits a byte, one of them for the sign.
fn varint_length(number: usize) -> usize {
    match number {
        0..0x40 => 1,
        0x40..0x2000 => 2,
        0x2000..0x10_0000 => 3,
        0x10_0000..0x800_0000 => 4,
        _ => 5,
    }
}

fn decimal_length(number: i16) -> usize {
    let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
    digits as usize + usize::from(number < 0)
}

/// Of a time in UTC: fractions of a second go without the zeros at their end.
fn rfc_3339_length(time: OffsetDateTime) -> usize {
    const SECONDS: usize = "2026-01-01T00:00:00Z".len();
    let mut fraction = time.nanosecond();
    if fraction == 0 {
        return SECONDS;
    }
    let mut digits = 9;
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        digits -= 1;
    }
    SECONDS + 1 + digits
}

/// What a record's headers say of the event it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub event_id: EventId,
    pub event_type: String,
    pub schema_version: i32,
    /// Media type of the record's value, where the header is there.
    pub content_type: Option<String>,
    /// When the event was created; that of the record where the header is missing, as CloudEvents
    /// allows.
    pub time: OffsetDateTime,
}

/// Headers that are not an [`Envelope`]. Permanent: the record never becomes readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnvelope {
    #[error("missing header {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    #[error("header {name} is {value:?}, expected {expected}")]
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
            .map_err(|_| wrong(TIME, time, "an RFC 3339 time"))?,
    };
    Ok(Envelope {
        event_id: id.parse().map_err(|_| wrong(ID, id, "a UUID"))?,
        event_type: text(TYPE),
        schema_version: version
            .parse()
            .map_err(|_| wrong(SCHEMA_VERSION, version, "a whole number"))?,
        content_type: record
            .headers
            .contains_key(CONTENT_TYPE)
            .then(|| text(CONTENT_TYPE)),
        time,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domain::{Body, Content};

    use super::*;

    fn event() -> OutboxEvent {
        OutboxEvent {
            event_id: EventId::generate(),
            topic: "order.created".to_owned(),
            key: "k".to_owned(),
            event_type: "OrderCreated".to_owned(),
            schema_version: 2,
            source: "/shop".to_owned(),
            content: Some(Content::json(r#"{ "spaced" : 1 }"#.to_owned())),
            headers: [("traceparent", "00-aa-bb-01"), ("ce_id", "forged")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            created_at: time::macros::datetime!(2026-01-02 03:04:05.123_456 UTC),
        }
    }

    /// Of so many bytes; of none for 0.
    fn content(bytes: usize) -> Option<Content> {
        (bytes > 0).then(|| Content::json("x".repeat(bytes)))
    }

    fn as_received(sent: OutgoingRecord) -> IncomingRecord {
        IncomingRecord {
            offset: 7,
            timestamp: OffsetDateTime::UNIX_EPOCH,
            key: Some(sent.key),
            value: sent.value,
            headers: sent.headers,
            odd_headers: Vec::new(),
            omitted_bytes: None,
        }
    }

    #[test]
    fn a_record_reads_back_as_the_event_it_was() {
        let event = event();
        let record = as_received(encode(&event));
        let content = event.content.as_ref().unwrap();
        assert_eq!(record.value.as_deref(), Some(content.as_bytes()));
        assert_eq!(record.headers["content-type"], b"application/json");
        assert_eq!(record.headers["traceparent"], b"00-aa-bb-01");
        assert_eq!(record.headers["ce_source"], b"/shop");
        assert_eq!(
            decode(&record),
            Ok(Envelope {
                event_id: event.event_id,
                event_type: event.event_type,
                schema_version: 2,
                content_type: Some("application/json".to_owned()),
                time: event.created_at,
            })
        );
    }

    /// As the protocol has it: <https://kafka.apache.org/documentation/#record>.
    fn written(record: &OutgoingRecord, offset_delta: usize) -> usize {
        fn varint(bytes: &mut Vec<u8>, number: usize) {
            let mut rest = number * 2;
            while rest > 0x7f {
                bytes.push(0x80);
                rest >>= 7;
            }
            bytes.push(0);
        }
        fn sized(bytes: &mut Vec<u8>, content: &[u8]) {
            varint(bytes, content.len());
            bytes.extend(content);
        }
        // Attributes, and the time after the batch's first.
        let mut body = vec![0, 0];
        varint(&mut body, offset_delta);
        sized(&mut body, &record.key);
        match &record.value {
            Some(value) => sized(&mut body, value),
            None => body.push(1), // the length -1
        }
        varint(&mut body, record.headers.len());
        for (name, value) in &record.headers {
            sized(&mut body, name.as_bytes());
            sized(&mut body, value);
        }
        let mut whole = Vec::new();
        sized(&mut whole, &body);
        whole.len()
    }

    #[test]
    fn the_size_is_that_of_the_record_and_few_bytes_more_at_most() {
        use time::macros::datetime;
        let mut event = event();
        event.headers.remove("ce_id");
        for (payload, offset_delta) in [(0, 0), (63, 0), (64, 63), (8_191, 64), (70_000, 9_000)] {
            for (created_at, version) in [
                (datetime!(2026-01-02 03:04:05 UTC), 1),
                (datetime!(2026-01-02 03:04:05.12 UTC), 10),
                (datetime!(2026-01-02 03:04:05.123_456 UTC), -32_768),
            ] {
                event.content = content(payload);
                event.created_at = created_at;
                event.schema_version = version;
                event
                    .headers
                    .insert(format!("h{payload}"), "v".repeat(payload));
                let exact = written(&encode(&event), offset_delta);
                let size = encoded_size(&event);
                assert!(
                    (exact..=exact + SIZE_SLACK).contains(&size),
                    "{exact} {size}"
                );
            }
        }
        // Around the length that needs a byte more.
        let excess: BTreeSet<usize> = (0..10_000)
            .map(|payload| {
                event.content = content(payload);
                event.headers.clear();
                encoded_size(&event) - written(&encode(&event), 0)
            })
            .collect();
        assert_eq!(excess, BTreeSet::from([2, SIZE_SLACK]));
    }

    #[test]
    fn any_content_and_none_goes_out_as_it_is() {
        let mut event = event();
        event
            .headers
            .insert("content-type".to_owned(), "forged".to_owned());
        event.content = Some(Content {
            content_type: "avro/binary".into(),
            body: Body::Bytes(vec![0, 0, 0, 0, 7, 0xff]),
        });
        let record = encode(&event);
        assert_eq!(record.value.as_deref(), Some(&[0, 0, 0, 0, 7, 0xff][..]));
        assert_eq!(record.headers["content-type"], b"avro/binary");
        event.content = None;
        let tombstone = encode(&event);
        assert_eq!(tombstone.value, None);
        assert!(!tombstone.headers.contains_key("content-type"));
        assert!(as_received(tombstone).headers.contains_key("ce_id"));
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
