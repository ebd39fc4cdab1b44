//! The access log of the real executable: a line for each request, and nothing in it that is none of
//! an operator's business.

use std::collections::BTreeMap;

use local_stack::testing::{TestDatabase, eventually};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::helpers::{Answer, DEADLINE, answer};
use crate::process::Process;
use crate::wire::Client;

/// Found in a line, these would have come from a body, a key or a query.
const SECRETS: [&str; 4] = [
    "secret-product",
    "secret-field",
    "secret-key",
    "secret-query",
];
const ORDER: &str = r#"{"productId":"secret-product","note":"secret-field"}"#;

/// A request and the line that is expected of it.
struct Case {
    method: &'static str,
    path: String,
    /// In the line; `other` for what somebody invented.
    logged_method: &'static str,
    route: &'static str,
    status: u16,
    key: &'static str,
    body: &'static str,
}

fn case(method: &'static str, path: &str, route: &'static str, status: u16) -> Case {
    Case {
        method,
        path: path.to_owned(),
        logged_method: method,
        route,
        status,
        key: "",
        body: "",
    }
}

fn cases() -> Vec<Case> {
    let post = |key, body, status| Case {
        key,
        body,
        ..case("POST", "/orders", "/orders", status)
    };
    vec![
        post("", ORDER, 201),
        post("secret-key", ORDER, 201),
        post("secret-key", ORDER, 201),
        post("secret-key", r#"{"productId":"secret-product-2"}"#, 422),
        post("", r#"{"productId":"secret-product !"}"#, 422),
        post("", r#"{"secret-field""#, 400),
        case("GET", "/orders", "/orders", 200),
        case("GET", "/orders?limit=secret-query", "/orders", 422),
        case("HEAD", "/orders", "/orders", 200),
        case("GET", "/orders/x", "/orders/{id}", 404),
        case("GET", "/orders/x/journey", "/orders/{id}/journey", 404),
        case("DELETE", "/orders/x", "/orders/{id}", 405),
        Case {
            logged_method: "other",
            ..case("INVENTED", "/orders", "/orders", 405)
        },
        case("GET", "/nowhere", "unmatched", 404),
        case("GET", "/docs", "/docs", 200),
        case("GET", "/openapi.json", "/openapi.json", 200),
        case("GET", &format!("/{}", "x".repeat(20_000)), "unmatched", 414),
    ]
}

/// Each request has a trace of its own, by which its line is found.
fn trace_id(number: usize) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e{number:04x}")
}

async fn send(api: &Process, case: &Case, number: usize) -> Answer {
    let client = reqwest::Client::new();
    let method = case.method.parse().unwrap();
    let mut request = client
        .request(method, api.url(&case.path))
        .header("content-type", "application/json")
        .header(
            "traceparent",
            format!("00-{}-00f067aa0ba902b7-01", trace_id(number)),
        )
        .body(case.body);
    if !case.key.is_empty() {
        request = request.header("idempotency-key", case.key);
    }
    if number.is_multiple_of(2) {
        request = request.header("x-request-id", format!("request-{number}"));
    }
    answer(request).await
}

#[tokio::test]
async fn every_request_leaves_one_line_and_no_secret() {
    let database = TestDatabase::create().await;
    let levels = (
        "RUST_LOG",
        "info,order_api=trace,service=trace,storage=trace",
    );
    for further in [&[][..], &[levels]] {
        let api = Process::serve(database.url(), further).await;
        let mut answers = Vec::new();
        for (number, case) in cases().iter().enumerate() {
            let answer = send(&api, case, number).await;
            assert_eq!(answer.status, case.status, "{} {}", case.method, case.path);
            answers.push(answer);
        }
        let lines = eventually("the last line", DEADLINE, async || {
            let lines = access_lines(&api);
            (lines.len() >= answers.len()).then_some(lines)
        })
        .await;
        assert_eq!(lines.len(), answers.len(), "a line too many");
        let mut by_trace = BTreeMap::new();
        for line in &lines {
            by_trace.insert(line["trace_id"].as_str().unwrap(), line);
        }
        for (number, (case, answer)) in cases().iter().zip(&answers).enumerate() {
            let line = by_trace[&*trace_id(number)];
            expect_line(line, case, answer);
            let request_id = line["request_id"].as_str().unwrap();
            if number.is_multiple_of(2) {
                assert_eq!(request_id, format!("request-{number}"));
            }
        }
        expect_no_secret(&api);
    }
}

fn access_lines(api: &Process) -> Vec<Value> {
    let lines = api.lines().into_iter();
    lines.filter(|line| line["message"] == "answered").collect()
}

#[track_caller]
fn expect_line(line: &Value, case: &Case, answer: &Answer) {
    assert_eq!(line["level"], "INFO", "{line}");
    assert_eq!(line["method"], case.logged_method, "{line}");
    assert_eq!(line["route"], case.route, "{line}");
    assert_eq!(line["status"], case.status, "{line}");
    assert_eq!(line["request_id"], answer.header("x-request-id"), "{line}");
    let path = case.path.split('?').next().unwrap();
    assert_eq!(line["path"], path[..path.len().min(2_048)], "{line}");
    let seconds = line["seconds"].as_f64().unwrap();
    assert!(
        seconds > 0.0 && seconds < answer.took.as_secs_f64(),
        "{line}"
    );
}

#[track_caller]
fn expect_no_secret(api: &Process) {
    for line in api.spawned.log().lines() {
        for secret in SECRETS {
            assert!(!line.contains(secret), "{secret} is in {line}");
        }
    }
}

#[tokio::test]
async fn a_request_whose_client_goes_away_leaves_a_line_too() {
    let database = TestDatabase::create().await;
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table outbox_event")
        .await
        .unwrap();
    let api = Process::serve(database.url(), &[]).await;
    let mut client = Client::connect(api.address).await;
    let length = ORDER.len();
    let request = format!(
        "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         X-Request-Id: gone-1\r\nIdempotency-Key: secret-key\r\n\
         Content-Length: {length}\r\n\r\n{ORDER}"
    );
    client.0.write_all(request.as_bytes()).await.unwrap();
    crate::store::until_stuck(&database.connect().await).await;
    drop(client);
    let line = api.line("client disconnected").await;
    assert_eq!(line["method"], "POST", "{line}");
    assert_eq!(line["path"], "/orders", "{line}");
    assert_eq!(line["request_id"], "gone-1", "{line}");
    assert_eq!(line["trace_id"].as_str().unwrap().len(), 32, "{line}");
    assert!(line["seconds"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(access_lines(&api), Vec::<Value>::new());
    expect_no_secret(&api);
}
