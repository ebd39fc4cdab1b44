//! From a record's bytes to a domain type, or to the reason why there is none. Never panics.

use domain::{EncodedEvent, EventId, Received};
use messaging::{IncomingRecord, LARGEST_RECORD, envelope};
use time::OffsetDateTime;

use crate::handlers::Event;
use crate::registry::Registry;

/// Characters of a reason: it quotes what it complains of, which may be as large as a record.
const LONGEST_REASON: usize = 1_000;

/// A record and what it turned out to be.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub record: IncomingRecord,
    /// Its event id, where the headers could be read, whatever the payload is worth.
    pub event_id: Option<EventId>,
    /// When the event was created, where the headers could be read.
    pub time: Option<OffsetDateTime>,
    /// The event, or why it can never be applied.
    pub event: Result<Received<Event>, String>,
}

/// Reads a record of `topic`.
pub fn decode(registry: &Registry, topic: &str, record: IncomingRecord) -> Decoded {
    let nothing = |record, reason| Decoded {
        record,
        event_id: None,
        time: None,
        event: Err(brief(reason)),
    };
    if let Some(bytes) = record.omitted_bytes {
        let reason = format!(
            "the record has {bytes} bytes, which is more than {LARGEST_RECORD}: its value and \
             headers were not kept"
        );
        return nothing(record, reason);
    }
    let envelope = match envelope::decode(&record) {
        Ok(envelope) => envelope,
        Err(invalid) => return nothing(record, invalid.to_string()),
    };
    let encoded = EncodedEvent {
        schema_version: envelope.schema_version,
        content_type: envelope.content_type.as_deref(),
        payload: record.value.as_deref(),
        time: envelope.time,
    };
    let event = registry.decode(topic, &envelope.event_type, &encoded);
    Decoded {
        event_id: Some(envelope.event_id),
        time: Some(envelope.time),
        event: event.map_err(brief).map(|event| Received {
            event_id: envelope.event_id,
            offset: record.offset,
            event,
        }),
        record,
    }
}

/// The beginning of a reason that is long.
pub(crate) fn brief(reason: String) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}… ({} bytes more)", &reason[..end], reason.len() - end),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use domain::{EventType, OrderCreated};
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0190a5d0-0000-7000-8000-000000000001";

    fn decode(record: IncomingRecord) -> Decoded {
        let registry = Registry::default().register::<OrderCreated>(Vec::new());
        super::decode(&registry, OrderCreated::TOPIC, record)
    }

    fn record(event_type: &str, version: &str, value: Option<&str>) -> IncomingRecord {
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", ID),
            ("ce_type", event_type),
            ("ce_schemaversion", version),
        ];
        IncomingRecord {
            offset: 5,
            timestamp: OffsetDateTime::UNIX_EPOCH,
            key: Some(b"k".to_vec()),
            value: value.map(|text| text.as_bytes().to_vec()),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
                .into(),
            odd_headers: Vec::new(),
            omitted_bytes: None,
        }
    }

    #[test]
    fn a_good_record_becomes_an_event() {
        let payload = format!(r#"{{"orderId":"{ID}","productId":"P-1"}}"#);
        let decoded = decode(record("OrderCreated", "1", Some(&payload)));
        let received = decoded.event.unwrap();
        assert_eq!(received.offset, 5);
        let order = received.event.get::<OrderCreated>().unwrap();
        assert_eq!(order.product_id.as_str(), "P-1");
        assert_eq!(decoded.event_id, Some(received.event_id));
    }

    #[test]
    fn what_cannot_be_applied_says_why() {
        let reason = |record| decode(record).event.unwrap_err();
        assert!(reason(record("OrderLost", "1", Some("{}"))).contains("OrderLost"));
        assert!(reason(record("OrderCreated", "9", Some("{}"))).contains("version 9"));
        assert!(reason(record("OrderCreated", "2", Some("{"))).contains("version 2"));
        assert!(reason(record("OrderCreated", "2", None)).contains("tombstone"));
        let mut headless = record("OrderCreated", "2", None);
        headless.headers = BTreeMap::new();
        assert!(reason(headless).contains("ce_id"));
    }

    #[test]
    fn a_reason_quotes_no_more_than_the_beginning() {
        let long = "é".repeat(500_000);
        let reason = decode(record(&long, "2", Some("{}"))).event.unwrap_err();
        assert!(reason.starts_with("unknown event type \"é"), "{reason:.50}");
        assert!(reason.ends_with("é… (998041 bytes more)"), "{reason:.2000}");
    }

    proptest! {
        #[test]
        fn no_record_makes_decoding_panic(
            headers in prop::collection::btree_map("(ce_(id|type|time|specversion|schemaversion)|x)", prop::collection::vec(any::<u8>(), 0..40), 0..6),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
        ) {
            let mut record = record("OrderCreated", "2", None);
            record.headers.extend(headers);
            record.value = value;
            decode(record);
        }
    }
}
