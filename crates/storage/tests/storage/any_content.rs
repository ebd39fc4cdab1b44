//! Events of any kind: who writes them, and what they carry.

use domain::{Body, Content, NewEvent};
use storage::outbox::append;

use crate::support::{Fixture, SOURCE, event, read_all};

fn with(content: Option<Content>) -> NewEvent {
    NewEvent {
        content,
        ..event("k")
    }
}

fn content(content_type: &'static str, body: Body) -> Content {
    Content {
        content_type: content_type.into(),
        body,
    }
}

#[tokio::test]
async fn what_was_appended_is_what_is_read() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let bytes = vec![0, 0, 0, 0, 1, 0xff];
    let appended = [
        with(Some(Content::json("{ \"a\":1}".to_owned()))),
        with(Some(content(
            "application/vnd.a+json",
            Body::Json("[]".to_owned()),
        ))),
        with(Some(content("avro/binary", Body::Bytes(bytes)))),
        with(Some(content("text/plain", Body::Bytes(Vec::new())))),
        with(None),
        NewEvent {
            source: Some("/shop".into()),
            ..event("k")
        },
    ];
    append(&mut conn, &appended).await.unwrap();
    let read = read_all(&mut conn).await;
    assert_eq!(read.len(), appended.len());
    for (read, appended) in read.iter().zip(&appended) {
        assert_eq!(read.event.content, appended.content);
        let source = appended.source.as_deref().unwrap_or(SOURCE);
        assert_eq!(read.event.source, source);
    }
    // Readers bound their batches by what is counted.
    let counted =
        "select string_agg((bytes - 1 - octet_length('{\"traceparent\": \"00-1\"}'))::text,
                                     ' ' order by id) from outbox_pending";
    assert_eq!(fixture.text(counted).await, "8 2 6 0 0 2");
}

#[tokio::test]
async fn a_plain_insert_is_json_and_anything_else_says_so() {
    let fixture = Fixture::new().await;
    let insert = |columns: &str, values: &str| {
        format!(
            "insert into outbox_event (event_id, topic, key, event_type, {columns})
             values (gen_random_uuid(), 't', 'k', 'T', {values})"
        )
    };
    fixture.run(&insert("payload", "'{}'")).await;
    let type_of_it = "select content_type from outbox_event";
    assert_eq!(fixture.text(type_of_it).await, "application/json");
    fixture.run(&insert("content_type", "null")).await;
    let refused = async |columns: &str, values: &str| {
        let error = fixture.sql.execute(&insert(columns, values), &[]).await;
        let error = error.unwrap_err();
        error
            .as_db_error()
            .unwrap()
            .constraint()
            .unwrap()
            .to_owned()
    };
    // A tombstone is one on purpose, and nothing has two payloads.
    for (columns, values) in [
        ("source", "'/x'"),
        ("payload, content_type", "'{}', null"),
        ("payload_bytes, content_type", "'x', null"),
        ("payload, payload_bytes", "'{}', 'x'"),
    ] {
        let constraint = refused(columns, values).await;
        assert_eq!(constraint, "outbox_event_has_one_payload_or_is_tombstone");
    }
    for (columns, values) in [
        ("payload, source", "'{}', repeat('x', 1025)"),
        ("payload, content_type", "'{}', repeat('x', 257)"),
    ] {
        let constraint = refused(columns, values).await;
        assert_eq!(constraint, "outbox_event_attributes_are_short");
    }
}

/// A replay counts as the trigger does.
#[tokio::test]
async fn what_is_replayed_counts_as_it_did() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let bytes = content("application/protobuf", Body::Bytes(vec![7; 1_000]));
    append(&mut conn, &[with(Some(bytes)), with(None), event("k")])
        .await
        .unwrap();
    let counted = "select string_agg(bytes::text, ' ' order by id) from outbox_pending";
    let before = fixture.text(counted).await;
    fixture
        .run(
            "with moved as (delete from outbox_pending returning id)
             insert into outbox_published (id, kafka_partition, kafka_offset) select id, 0, id from moved",
        )
        .await;
    let bounds = storage::outbox::ReplayBounds::default();
    let window = storage::outbox::replay(&mut conn, &bounds, None, 100).await;
    assert_eq!(window.unwrap().matching, 3);
    assert_eq!(fixture.text(counted).await, before);
}
