//! Placing orders and asking for them.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::helpers::TestApp;

#[tokio::test]
async fn an_order_is_stored_with_its_event() {
    let app = TestApp::start().await;
    let answer = app.api.post(r#"{"productId":"P-001","quantity":2}"#).await;
    let id = answer.order_id();
    assert_eq!(answer.header("location"), format!("/orders/{id}"));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7);
    let created_at = answer.body["createdAt"].as_str().unwrap();
    assert!(OffsetDateTime::parse(created_at, &Rfc3339).is_ok() && created_at.ends_with('Z'));
    let order = json!({
        "id": id, "productId": "P-001", "quantity": 2, "createdAt": created_at,
        "state": "placed", "cancelledAt": null,
    });
    assert_eq!(answer.body, order);

    let row = "select json_build_object('id', id, 'productId', product_id, 'quantity', quantity)::text from orders";
    let row: Value = serde_json::from_str(&app.texts(row).await[0]).unwrap();
    assert_eq!(
        row,
        json!({ "id": id, "productId": "P-001", "quantity": 2 })
    );

    let event = app
        .sql
        .query_one(
            "select topic, key, event_type, schema_version, payload::text, headers::text from outbox_event",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(event.get::<_, &str>(0), "order.created");
    assert_eq!(event.get::<_, &str>(1), id);
    assert_eq!(event.get::<_, &str>(2), "OrderCreated");
    assert_eq!(event.get::<_, i16>(3), 2);
    let payload: Value = serde_json::from_str(event.get(4)).unwrap();
    let announced =
        json!({ "orderId": id, "productId": "P-001", "quantity": 2, "createdAt": created_at });
    assert_eq!(payload, announced);
    let headers: Value = serde_json::from_str(event.get(5)).unwrap();
    let trace = answer.header("x-request-id");
    let parent = headers["traceparent"].as_str().unwrap();
    assert!(parent.starts_with(&format!("00-{trace}-")), "{headers}");
    assert_eq!(app.stored().await, (1, 1, 1));
}

#[tokio::test]
async fn an_order_reads_back_as_it_was_answered() {
    let app = TestApp::start().await;
    let placed = app.api.post(r#"{"productId":"P-001","extra":1}"#).await;
    let path = format!("/orders/{}", placed.order_id());
    assert_eq!(placed.body["quantity"], 1);
    let read = app.api.get(&path).await;
    assert_eq!((read.status, &read.body), (200, &placed.body));
    let head = app.api.http.head(app.api.url(&path)).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 200);
}

#[tokio::test]
async fn any_json_content_type_is_taken() {
    let app = TestApp::start().await;
    for content_type in [
        "application/json; charset=utf-8",
        "application/vnd.order+json",
    ] {
        let answer = app.api.post_as(content_type, r#"{"productId":"P"}"#).await;
        assert_eq!(answer.status, 201, "{content_type}");
    }
}

#[tokio::test]
async fn an_order_that_does_not_exist_is_not_found() {
    let app = TestApp::start().await;
    for id in [&*Uuid::now_v7().to_string(), "xyz", "%00", "1"] {
        for path in [format!("/orders/{id}"), format!("/orders/{id}/journey")] {
            let answer = app.api.get(&path).await;
            answer.expect_problem(404, "order-not-found");
        }
    }
}

#[tokio::test]
async fn a_journey_tells_where_an_order_is() {
    let app = TestApp::start().await;
    let placed = app.api.post(r#"{"productId":"P-001"}"#).await;
    let path = format!("/orders/{}/journey", placed.order_id());

    let journey = app.api.get(&path).await;
    assert_eq!(journey.status, 200);
    assert_eq!(journey.body["orderId"], placed.body["id"]);
    assert_eq!(journey.body["createdAt"], placed.body["createdAt"]);
    let event = &journey.body["events"][0];
    assert_eq!(event["type"], "OrderCreated");
    assert_eq!(event["topic"], "order.created");
    assert_eq!(event["state"], "pending");
    assert_eq!(event["delivered"], Value::Null);
    assert_eq!(event["consumed"], json!([]));

    app.execute(
        "with moved as (delete from outbox_pending returning id)
         insert into outbox_published (id, kafka_partition, kafka_offset) select id, 3, 42 from moved;
         insert into inbox_offset (consumer_group, topic, partition, next_offset)
         values ('order-group', 'order.created', 3, 43);
         insert into inbox (consumer_group, event_id, topic, partition, \"offset\")
         select 'order-group', event_id, topic, 3, 42 from outbox_event",
    )
    .await;
    let journey = app.api.get(&path).await;
    let event = &journey.body["events"][0];
    assert_eq!(event["state"], "published");
    assert_eq!(event["delivered"]["partition"], 3);
    assert_eq!(event["delivered"]["offset"], 42);
    assert!(event["delivered"]["at"].is_string());
    assert_eq!(event["consumed"][0]["consumerGroup"], "order-group");
    assert_eq!(event["consumed"][0]["deadLetterReason"], Value::Null);
}

#[tokio::test]
async fn a_journey_tells_why_an_event_is_held() {
    let app = TestApp::start().await;
    let placed = app.api.post(r#"{"productId":"P-001"}"#).await;
    app.execute(
        "with moved as (delete from outbox_pending returning slot, id)
         insert into outbox_held (bytes, id, slot, topic, key, cause, error)
         select 10, id, slot, topic, key, 'dead', 'record too large' from moved join outbox_event using (id)",
    )
    .await;
    let path = format!("/orders/{}/journey", placed.order_id());
    let journey = app.api.get(&path).await;
    let event = &journey.body["events"][0];
    assert_eq!(event["state"], "dead");
    assert_eq!(event["heldReason"], "record too large");
}

#[tokio::test]
async fn a_journey_tells_why_a_consumer_could_not_apply_an_event() {
    let app = TestApp::start().await;
    let placed = app.api.post(r#"{"productId":"P-001"}"#).await;
    app.execute(
        "with moved as (delete from outbox_pending returning id)
         insert into outbox_published (id, kafka_partition, kafka_offset) select id, 3, 42 from moved;
         insert into inbox (consumer_group, event_id, topic, partition, \"offset\")
         select 'one', event_id, topic, 3, 42 from outbox_event;
         insert into inbox_offset (consumer_group, topic, partition, next_offset)
         values ('one', 'order.created', 3, 43), ('two', 'order.created', 3, 43);
         insert into inbox_dead_letter (consumer_group, topic, partition, \"offset\", cause, reason)
         values ('two', 'order.created', 3, 42, 'dead', 'no such product'),
                ('two', 'order.created', 3, 41, 'dead', 'another record')",
    )
    .await;
    let path = format!("/orders/{}/journey", placed.order_id());
    let consumed = || async { app.api.get(&path).await.body["events"][0]["consumed"].clone() };
    let entry = |met: &Value| {
        (
            met["consumerGroup"].clone(),
            met["deadLetterReason"].clone(),
        )
    };
    let both = consumed().await;
    let both: Vec<_> = both.as_array().unwrap().iter().map(entry).collect();
    assert_eq!(
        both,
        [
            (json!("one"), Value::Null),
            (json!("two"), json!("no such product"))
        ]
    );
    // What was settled is no reason any more; who applied it says so itself.
    app.execute("update inbox_dead_letter set settled_at = now(), settled_as = 'discarded'")
        .await;
    assert_eq!(consumed().await.as_array().unwrap().len(), 1);

    // Given up, its event counts as met from then on; it was never applied.
    app.execute(
        "update inbox_dead_letter set settled_at = now(), settled_as = 'discarded'
         where \"offset\" = 42;
         insert into inbox (consumer_group, event_id, topic, partition, \"offset\")
         select 'two', event_id, topic, 3, 42 from outbox_event",
    )
    .await;
    let settled = consumed().await;
    let of_two = |met: &&Value| met["consumerGroup"] == "two";
    let of_two = settled.as_array().unwrap().iter().find(of_two).unwrap();
    assert_eq!(of_two["deadLetterReason"], "discarded: no such product");
}

#[tokio::test]
async fn answers_are_counted_by_route_and_never_by_path() {
    let app = TestApp::start().await;
    let id = app.api.post(r#"{"productId":"P"}"#).await.order_id();
    app.api.get(&format!("/orders/{id}")).await;
    app.api.get("/somewhere/else").await;
    let metrics = app.api.metrics().await;
    for line in [
        r#"http_requests_total{method="POST",route="/orders",status="201"} 1"#,
        r#"http_requests_total{method="GET",route="/orders/{id}",status="200"} 1"#,
        r#"http_requests_total{method="GET",route="unmatched",status="404"} 1"#,
        r#"http_request_duration_seconds_count{method="POST",route="/orders"} 1"#,
        "orders_placed_total 1",
        "database_pool_connections_max 16",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains(&id) && !metrics.contains("somewhere"));
}
