//! Events of any kind, from the row to the record.

use domain::EventId;
use messaging::{IncomingRecord, envelope};

use crate::support::Fixture;

/// The record of each event, in the order of their keys.
async fn records(fixture: &Fixture) -> Vec<IncomingRecord> {
    let mut records: Vec<_> = fixture.records().await.into_values().flatten().collect();
    records.sort_by(|a, b| a.key.cmp(&b.key));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_out_as_it_was_written_whatever_it_carries() {
    let fixture = Fixture::new().await;
    let topic = &fixture.topic;
    fixture
        .sql
        .batch_execute(&format!(
            "insert into outbox_event
                 (event_id, topic, key, event_type, source, content_type, payload, payload_bytes, headers)
             values
                 (gen_random_uuid(), '{topic}', '1', 'Json', null, 'application/json', '{{ \"a\":1}}', null, '{{}}'),
                 (gen_random_uuid(), '{topic}', '2', 'Avro', '/shop', 'avro/binary', null, '\\x00000000070aff', '{{}}'),
                 (gen_random_uuid(), '{topic}', '3', 'Empty', '/shop', 'text/plain', null, '', '{{}}'),
                 (gen_random_uuid(), '{topic}', '4', 'Gone', '/shop', null, null, null,
                  '{{\"traceparent\": \"00-1\", \"content-type\": \"forged\"}}')"
        ))
        .await
        .unwrap();
    let mut relay = fixture.relay_with_variable("EVENT_SOURCE", "/everything-else");
    relay.drain(&fixture).await;
    let records = records(&fixture).await;
    let header = |nth: usize, name: &str| {
        let value: Option<&Vec<u8>> = records[nth].headers.get(name);
        value.map(|value| String::from_utf8(value.clone()).unwrap())
    };
    let of_each = |name: &str| -> Vec<Option<String>> { (0..4).map(|n| header(n, name)).collect() };
    let values: Vec<Option<&[u8]>> = records.iter().map(|r| r.value.as_deref()).collect();
    assert_eq!(
        values,
        [
            Some(&b"{ \"a\":1}"[..]),
            Some(&[0, 0, 0, 0, 7, 10, 0xff][..]),
            Some(&[][..]),
            None
        ]
    );
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        of_each("content-type"),
        [
            some("application/json"),
            some("avro/binary"),
            some("text/plain"),
            None
        ]
    );
    let shop = || some("/shop");
    assert_eq!(
        of_each("ce_source"),
        [some("/everything-else"), shop(), shop(), shop()]
    );
    assert_eq!(header(3, "traceparent"), some("00-1"));
    let rows = "select string_agg(event_id::text, ' ' order by key) from outbox_event";
    let ids: String = fixture.sql.query_one(rows, &[]).await.unwrap().get(0);
    let ids: Vec<EventId> = ids.split(' ').map(|id| id.parse().unwrap()).collect();
    let arrived: Vec<EventId> = records
        .iter()
        .map(|record| envelope::decode(record).unwrap().event_id)
        .collect();
    assert_eq!(arrived, ids);
}

/// Bytes can be too large as JSON can.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_kafka_refuses_are_dead_and_hold_back_a_tombstone_of_their_key() {
    let fixture = Fixture::new().await;
    let topic = &fixture.topic;
    fixture
        .sql
        .batch_execute(&format!(
            "insert into outbox_event (event_id, topic, key, event_type, content_type, payload_bytes)
             values (gen_random_uuid(), '{topic}', 'k', 'Large', 'image/png',
                     decode(repeat('ff', 1100000), 'hex'));
             insert into outbox_event (event_id, topic, key, event_type, content_type)
             values (gen_random_uuid(), '{topic}', 'k', 'Gone', null)"
        ))
        .await
        .unwrap();
    let mut relay = fixture.relay(512);
    relay.drain(&fixture).await;
    assert_eq!(fixture.count("dead").await, 1);
    assert_eq!(fixture.count("blocked").await, 1);
    assert_eq!(fixture.count("published").await, 0);
}
