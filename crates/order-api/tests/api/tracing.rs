//! A request's id and trace: taken over, echoed, passed on into the event, and told to a collector.

use std::time::Duration;

use local_stack::testing::{Collector, Manners, TestDatabase, eventually};
use serde_json::Value;

use crate::helpers::{DEADLINE, TestApp, answer};
use crate::process::Process;

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
async fn the_span_of_a_request_is_the_parent_that_its_event_carries() {
    let collector = Collector::start(Manners::Taking).await;
    let endpoint = collector.endpoint();
    let app = TestApp::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    let unsampled = PARENT.replace("-01", "-00").replace("4bf9", "aaaa");
    for parent in [&unsampled, PARENT] {
        let request = app.api.http.post(app.api.url("/orders"));
        let request = request
            .header("content-type", "application/json")
            .header("traceparent", parent);
        answer(request.body(r#"{"productId":"P"}"#))
            .await
            .order_id();
    }
    let spans = eventually("the span", DEADLINE, async || {
        let spans = collector.spans();
        spans
            .iter()
            .any(|s| s.trace_id == PARENT[3..35])
            .then_some(spans)
    })
    .await;
    let [span] = spans.as_slice() else {
        panic!("one trace is to be recorded: {spans:?}");
    };
    assert_eq!(
        (span.kind.as_str(), span.name.as_str()),
        ("Server", "POST /orders")
    );
    assert_eq!(span.service, "order-api");
    assert_eq!(span.parent_span_id, &PARENT[36..52]);
    assert_eq!(span.attributes["http.response.status_code"], "201");
    let query = "select headers->>'traceparent' from outbox_event order by id";
    let [of_unsampled, of_sampled] = app.texts(query).await.try_into().unwrap();
    assert!(of_unsampled.starts_with(&unsampled[..36]) && of_unsampled.ends_with("-00"));
    assert_eq!(of_sampled, format!("{}{}-01", &PARENT[..36], span.span_id));
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

fn order(url: &str) -> reqwest::RequestBuilder {
    let request = reqwest::Client::new().post(url);
    let request = request.header("content-type", "application/json");
    request
        .header("traceparent", PARENT)
        .body(r#"{"productId":"P"}"#)
}

#[tokio::test]
async fn with_a_mute_collector_orders_are_placed_and_it_stops_in_time() {
    let collector = Collector::start(Manners::Mute).await;
    let database = TestDatabase::create().await;
    let endpoint = collector.endpoint();
    let further = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)];
    let mut api = Process::serve(database.url(), &further).await;
    let url = api.url("/orders");
    answer(order(&url)).await.order_id();
    eventually("a request to the collector", DEADLINE, async || {
        (collector.requests() > 0).then_some(())
    })
    .await;
    answer(order(&url)).await.order_id();
    api.spawned.terminate();
    let ended = api.spawned.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", api.spawned.log());
}

#[tokio::test]
async fn what_is_logged_on_the_way_of_a_request_names_its_trace() {
    let database = TestDatabase::create().await;
    let sql = database.connect().await;
    sql.batch_execute("alter table outbox_event add check (topic = 'none') not valid")
        .await
        .unwrap();
    let further = [("RUST_LOG", "error,order_api::application=info")];
    let api = Process::serve(database.url(), &further).await;
    answer(order(&api.url("/orders")))
        .await
        .expect_problem(500, "internal-error");
    let line = api.line("request failed").await.to_string();
    assert!(line.contains(&PARENT[3..35]), "{line}");
}
