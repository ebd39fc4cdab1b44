//! `POST /orders/{id}/cancel`.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::helpers::{Answer, TestApp, answer};
use crate::openapi::expect_documented;

const TEMPLATE: &str = "/orders/{id}/cancel";

impl TestApp {
    async fn placed(&self) -> (String, Value) {
        let placed = self.api.post(r#"{"productId":"P-001","quantity":2}"#).await;
        (placed.order_id(), placed.body)
    }

    async fn cancel(&self, id: &str) -> Answer {
        let url = self.api.url(&format!("/orders/{id}/cancel"));
        answer(self.api.http.post(url)).await
    }
}

#[tokio::test]
async fn a_cancelled_order_is_stored_with_its_event() {
    let app = TestApp::start().await;
    let (id, placed) = app.placed().await;
    assert_eq!(placed["state"], "placed");
    assert_eq!(placed["cancelledAt"], Value::Null);
    let cancelled = app.cancel(&id).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let at = cancelled.body["cancelledAt"].clone();
    assert!(at.is_string(), "{cancelled:?}");
    let mut expected = placed;
    expected["state"] = "cancelled".into();
    expected["cancelledAt"] = at.clone();
    assert_eq!(cancelled.body, expected);

    // Each way to see an order says so.
    let read = app.api.get(&format!("/orders/{id}")).await.body;
    assert_eq!(read, expected);
    assert_eq!(app.api.get("/orders").await.body["items"], json!([read]));
    let journey = app.api.get(&format!("/orders/{id}/journey")).await.body;
    assert_eq!(journey["state"], "cancelled");
    let types: Vec<&Value> = journey["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["type"])
        .collect();
    assert_eq!(types, ["OrderCreated", "OrderCancelled"]);

    let event =
        "select concat_ws(' ', topic, key, event_type, schema_version, source, content_type)
                 from outbox_event where event_type <> 'OrderCreated'";
    assert_eq!(
        app.texts(event).await,
        [format!(
            "order.cancelled {id} OrderCancelled 1 /order-api application/json"
        )]
    );
    let payload = "select payload::text from outbox_event where topic = 'order.cancelled'";
    let payload: Value = serde_json::from_str(&app.texts(payload).await[0]).unwrap();
    assert_eq!(
        payload,
        json!({"orderId": id, "productId": "P-001", "quantity": 2, "cancelledAt": at})
    );
    let parent = "select headers->>'traceparent' from outbox_event where topic = 'order.cancelled'";
    let trace = cancelled.header("x-request-id");
    assert!(app.texts(parent).await[0].starts_with(&format!("00-{trace}-")));
    assert_eq!(app.stored().await, (1, 2, 2));
    assert!(app.api.metrics().await.contains("orders_cancelled_total 1"));
}

#[tokio::test]
async fn p1_to_cancel_again_changes_nothing_however_many_do_it_at_once() {
    let app = TestApp::start().await;
    let (id, _) = app.placed().await;
    let answers = futures::future::join_all((0..16).map(|_| app.cancel(&id))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    assert_eq!(app.cancel(&id).await.body, answers[0].body);
    assert_eq!(app.stored().await, (1, 2, 2));
    assert!(app.api.metrics().await.contains("orders_cancelled_total 1"));
}

#[tokio::test]
async fn what_cannot_be_cancelled_stays_and_says_why() {
    let app = TestApp::start_with(&[("API__CANCELLATION_WINDOW", "1h")]).await;
    let document = app.api.get("/openapi.json").await.body;
    let (id, placed) = app.placed().await;
    app.execute("update orders set created_at = created_at - interval '1 hour'")
        .await;
    let late = app.cancel(&id).await;
    late.expect_problem(409, "too-late-to-cancel");
    assert!(late.header("retry-after").is_empty());
    let detail = late.body["detail"].as_str().unwrap();
    // An hour after an hour before it was placed.
    let until = placed["createdAt"].as_str().unwrap();
    assert_eq!(
        detail,
        format!("the order could be cancelled until {until}")
    );
    expect_documented(&document, "post", TEMPLATE, &late);
    for unknown in [&*Uuid::now_v7().to_string(), "xyz"] {
        let missing = app.cancel(unknown).await;
        missing.expect_problem(404, "order-not-found");
        expect_documented(&document, "post", TEMPLATE, &missing);
    }
    let get = app.api.get(&format!("/orders/{id}/cancel")).await;
    get.expect_problem(405, "method-not-allowed");
    assert_eq!(get.header("allow"), "POST");
    assert_eq!(app.stored().await, (1, 1, 1));

    // What was cancelled in time stays cancelled.
    let (id, _) = app.placed().await;
    let cancelled = app.cancel(&id).await;
    expect_documented(&document, "post", TEMPLATE, &cancelled);
    app.execute("update orders set created_at = created_at - interval '1 year'")
        .await;
    let again = app.cancel(&id).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.body["cancelledAt"], cancelled.body["cancelledAt"]);
}

#[tokio::test]
async fn p1_an_event_that_is_refused_leaves_the_order_as_it_was() {
    let app = TestApp::start().await;
    let (id, placed) = app.placed().await;
    app.execute("alter table outbox_event add check (event_type <> 'OrderCancelled')")
        .await;
    app.cancel(&id).await.expect_problem(500, "internal-error");
    assert_eq!(app.api.get(&format!("/orders/{id}")).await.body, placed);
    assert_eq!(app.stored().await, (1, 1, 1));
}

/// A lock that somebody else keeps costs the requests for other orders nothing.
#[tokio::test]
async fn an_order_that_is_locked_is_refused_soon_and_hinders_no_other() {
    let app = TestApp::start_with(&[("API__POOL_SIZE", "2")]).await;
    let (locked, _) = app.placed().await;
    let (other, _) = app.placed().await;
    app.execute(&format!(
        "begin; select from orders where id = '{locked}' for update"
    ))
    .await;
    let cancels = futures::future::join_all((0..4).map(|_| app.cancel(&locked)));
    let path = format!("/orders/{other}");
    let (refused, read) = tokio::join!(cancels, app.api.get(&path));
    for refused in refused {
        refused.expect_unavailable("busy");
    }
    assert_eq!(read.status, 200, "{read:?}");
    assert!(app.api.readiness().await.0, "still ready");
    app.execute("commit").await;
    assert_eq!(app.cancel(&locked).await.status, 200);
    // One that is cancelled needs no lock.
    app.execute(&format!(
        "begin; select from orders where id = '{locked}' for update"
    ))
    .await;
    assert_eq!(app.cancel(&locked).await.status, 200);
    app.execute("rollback").await;
}
