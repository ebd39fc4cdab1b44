//! A request's id and trace: taken over, echoed, and passed on into the event.

use serde_json::Value;

use crate::helpers::{TestApp, answer};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_trace_goes_on_in_the_event() {
    let app = TestApp::start().await;
    let request = app.api.http.post(app.api.url("/orders"));
    let request = request
        .header("content-type", "application/json")
        .header("traceparent", PARENT)
        .header("tracestate", "vendor=1")
        .header("x-request-id", "request-1");
    let placed = answer(request.body(r#"{"productId":"P"}"#)).await;
    placed.order_id();
    assert_eq!(placed.header("x-request-id"), "request-1");
    let headers = &app.texts("select headers::text from outbox_event").await[0];
    let headers: Value = serde_json::from_str(headers).unwrap();
    let parent = headers["traceparent"].as_str().unwrap();
    assert!(
        parent.starts_with(&PARENT[..36]) && parent.ends_with("-01"),
        "{parent}"
    );
    assert_ne!(parent, PARENT);
    assert_eq!(headers["tracestate"], "vendor=1");
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let app = TestApp::start().await;
    for path in ["/orders", "/orders/x", "/nowhere", "/docs"] {
        let id = app.api.get(path).await.header("x-request-id").to_owned();
        assert_eq!(id.len(), 32, "{path}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let long = app.api.get(&format!("/orders/{}", "x".repeat(3000))).await;
    long.expect_problem(414, "uri-too-long");
    let request = app.api.http.get(app.api.url("/orders"));
    let large = answer(request.header("x-padding", "x".repeat(20_000))).await;
    large.expect_problem(431, "headers-too-large");
}
