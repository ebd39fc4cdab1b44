//! The events that announce dead letters: whatever a record was, Kafka takes what tells of it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domain::{Content, OutboxEvent};
use local_stack::testing::unique_topic;
use messaging::{OutgoingRecord, PartitionWriter, envelope};
use serde_json::Value;
use time::OffsetDateTime;

use crate::support::{Fixture, GROUP, drain, make_topic, order};

impl Fixture {
    /// What the outbox has, as the relay would send it.
    async fn announced(&self) -> Vec<OutboxEvent> {
        let query = "select event_id, topic, key, event_type, schema_version, payload::text, \
                            headers::text from outbox_event order by id";
        let rows = self.sql.query(query, &[]).await.unwrap();
        rows.iter()
            .map(|row| OutboxEvent {
                event_id: row.get::<_, uuid::Uuid>(0).into(),
                topic: row.get(1),
                key: row.get(2),
                event_type: row.get(3),
                schema_version: row.get(4),
                source: "/order-consumer".to_owned(),
                content: Some(Content::json(row.get(5))),
                headers: serde_json::from_str(row.get(6)).unwrap(),
                created_at: OffsetDateTime::now_utc(),
            })
            .collect()
    }

    /// Sends events to a topic with Kafka's own limits, each by itself.
    async fn send(&self, events: &[OutboxEvent]) {
        let topic = unique_topic("announced");
        make_topic(&self.cluster, &topic, 1).await;
        let mut writer = PartitionWriter::new(self.cluster.clone(), &topic, 0);
        for event in events {
            let size = payload(event).len();
            if let Err(error) = writer.produce(vec![envelope::encode(event)]).await {
                panic!("{} with {size} bytes: {error}", event.key);
            }
        }
    }
}

fn payload(event: &OutboxEvent) -> &[u8] {
    event.content.as_ref().unwrap().as_bytes()
}

fn decoded(base64: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(base64.as_str().unwrap()).unwrap()
}

/// Names and values of headers, as an announcement tells them.
fn headers(payload: &Value) -> BTreeMap<String, Vec<u8>> {
    let all = payload["headers"].as_array().unwrap().iter();
    all.map(|header| {
        let name = String::from_utf8(decoded(&header["name"])).unwrap();
        (name, decoded(&header["value"]))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_announced_with_the_bytes_of_its_record() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let mut record = order("P-1", 1);
    record.key = b"\xffkey\0".to_vec();
    record.value = Some(b"\xfe{\0".to_vec());
    record.headers.insert("odd".to_owned(), b"\0\xfd".to_vec());
    fixture
        .produce(1, vec![order("P-1", 1), record.clone()])
        .await;
    drain(&mut fixture.consumer(1, &leases).0).await;
    let announced = fixture.announced().await;
    let [event] = announced.as_slice() else {
        panic!("{announced:?}")
    };
    assert_eq!(event.topic, format!("{}.dlq", fixture.topic));
    assert_eq!(event.key, format!("{}/1/1", fixture.topic));
    let payload: Value = serde_json::from_slice(payload(event)).unwrap();
    assert_eq!(payload["consumerGroup"], GROUP);
    assert_eq!(payload["topic"], fixture.topic.as_str());
    assert_eq!(payload["partition"], 1);
    assert_eq!(payload["offset"], 1);
    assert!(payload["reason"].as_str().unwrap().contains("version 2"));
    assert_eq!(decoded(&payload["key"]), record.key);
    assert_eq!(Some(decoded(&payload["value"])), record.value);
    assert_eq!(headers(&payload), record.headers);
    let omitted = payload.as_object().unwrap().keys();
    assert!(omitted.into_iter().all(|name| !name.contains("mitted")));
    // It is the relay's to send, since the transaction that held the record.
    let pending = "select count(*)::text from outbox_pending join outbox_event using (id)
                   join inbox_dead_letter d on d.held_at = created_at";
    assert_eq!(fixture.text(pending).await, "1");
}

fn undecodable() -> OutgoingRecord {
    OutgoingRecord {
        value: Some(b"\xff{".to_vec()),
        ..order("P-1", 1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_record_is_announced_without_its_largest_part_and_kept_whole() {
    const LARGE: usize = 1_000_000;
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let mut value = undecodable();
    value.value.as_mut().unwrap().resize(LARGE, 0xff);
    let mut key = undecodable();
    key.key = vec![0xff; LARGE];
    let mut header = undecodable();
    header.headers.insert("large".to_owned(), vec![0xff; LARGE]);
    let mut many = undecodable();
    let tiny = (0..40_000).map(|n| (format!("{n:x}"), Vec::new()));
    many.headers.extend(tiny);
    // The reason quotes it, and each of its bytes takes more than one there.
    let mut quoted = undecodable();
    quoted.headers.insert("ce_id".to_owned(), vec![1; LARGE]);
    let mut fits = undecodable();
    fits.value.as_mut().unwrap().resize(599_000, 0xff);
    let records = [value, key, header, many, quoted, fits];
    for record in &records {
        fixture.produce(0, vec![record.clone()]).await;
    }
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    drain(&mut consumer).await;
    assert_eq!(metrics.dead.get(), 6);
    let announced = fixture.announced().await;
    fixture.send(&announced).await;

    let payloads: Vec<Value> = announced
        .iter()
        .map(|event| serde_json::from_slice(payload(event)).unwrap())
        .collect();
    let [value, key, header, many, quoted, fits] = &payloads[..] else {
        panic!("{} announced", payloads.len())
    };
    assert_eq!(value["value"], Value::Null);
    assert_eq!(value["valueOmittedBytes"], LARGE);
    assert_eq!(decoded(&value["key"]), records[0].key);
    assert_eq!(headers(value), records[0].headers);
    assert_eq!(key["key"], Value::Null);
    assert_eq!(key["keyOmittedBytes"], LARGE);
    assert_eq!(Some(decoded(&key["value"])), records[1].value);
    for (payload, record) in [
        (header, &records[2]),
        (many, &records[3]),
        (quoted, &records[4]),
    ] {
        let sizes = record.headers.iter().map(|(name, v)| name.len() + v.len());
        assert_eq!(payload["headersOmittedBytes"], sizes.sum::<usize>());
        assert_eq!(payload["headers"], serde_json::json!([]));
        assert_eq!(Some(decoded(&payload["value"])), record.value);
    }
    let reason = quoted["reason"].as_str().unwrap();
    assert!(reason.starts_with("header ce_id is "), "{reason}");
    assert_eq!(Some(decoded(&fits["value"])), records[5].value);

    let rows = "select key, value, header_names, header_values, length(reason) \
                from inbox_dead_letter order by \"offset\"";
    let rows = fixture.sql.query(rows, &[]).await.unwrap();
    for (row, record) in rows.iter().zip(&records) {
        assert!(row.get::<_, Vec<u8>>(0) == record.key);
        assert!(row.get::<_, Option<Vec<u8>>>(1) == record.value);
        let names = row.get::<_, Vec<Vec<u8>>>(2).into_iter();
        let names = names.map(|name| String::from_utf8(name).unwrap());
        let kept: BTreeMap<_, _> = names.zip(row.get::<_, Vec<Vec<u8>>>(3)).collect();
        assert!(kept == record.headers);
        assert!(row.get::<_, i32>(4) < 1_100);
    }
    assert_eq!(rows.len(), records.len());
}
