//! Every answer that the server can give to a documented operation is provoked, and that is what the
//! document says: nothing less, and nothing that nobody has seen.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::Value;

use crate::helpers::{Answer, Api, TestApp, answer};
use crate::openapi::expect_documented;
use crate::proxy;
use crate::wire::{body, say_and_wait, status};

const ORDER: &str = r#"{"productId":"P-001"}"#;
const UNKNOWN: &str = "/orders/0190a5d0-0000-7000-8000-000000000001";

/// Method, path, status, and the problem's type; no type when there is no body.
type Refusal = (String, String, u16, String);

/// An operation: its method, its path as documented, and a path to ask for.
#[derive(Debug, Clone)]
struct Operation {
    method: &'static str,
    template: &'static str,
    path: String,
}

fn operations(id: &str) -> [Operation; 5] {
    let operation = |method, template, path| Operation {
        method,
        template,
        path,
    };
    [
        operation("post", "/orders", "/orders".to_owned()),
        operation("get", "/orders", "/orders".to_owned()),
        operation("get", "/orders/{id}", format!("/orders/{id}")),
        operation(
            "get",
            "/orders/{id}/journey",
            format!("/orders/{id}/journey"),
        ),
        operation(
            "post",
            "/orders/{id}/cancel",
            format!("/orders/{id}/cancel"),
        ),
    ]
}

impl Operation {
    fn request(&self, api: &Api, query: &str) -> reqwest::RequestBuilder {
        let url = api.url(&format!("{}{query}", self.path));
        match self.method {
            "post" => order(api, &url, ORDER),
            _ => api.http.get(url),
        }
    }

    async fn ask(&self, api: &Api) -> Answer {
        answer(self.request(api, "")).await
    }
}

fn order(api: &Api, url: &str, body: &str) -> reqwest::RequestBuilder {
    let request = api.http.post(url).body(body.to_owned());
    request.header("content-type", "application/json")
}

/// What was provoked so far, each time as the document has it.
struct Provoked {
    document: Value,
    refusals: BTreeSet<Refusal>,
}

impl Provoked {
    #[track_caller]
    fn add(&mut self, operation: &Operation, answer: &Answer, status: u16, name: &str) {
        let Operation {
            method, template, ..
        } = operation;
        answer.expect_problem(status, name);
        expect_documented(&self.document, method, template, answer);
        self.note(operation, status, format!("/problems/{name}"));
    }

    fn note(&mut self, operation: &Operation, status: u16, problem: String) {
        let (method, path) = (operation.method.to_owned(), operation.template.to_owned());
        self.refusals.insert((method, path, status, problem));
    }
}

/// Every refusal that the document knows of.
fn documented(document: &Value) -> BTreeSet<Refusal> {
    let mut refusals = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // The others are texts.
            let Some(responses) = operation["responses"].as_object() else {
                continue;
            };
            for (status, response) in responses {
                let status: u16 = status.parse().unwrap();
                for problem in types(response["description"].as_str().unwrap()) {
                    if status >= 400 {
                        refusals.insert((method.clone(), path.clone(), status, problem));
                    }
                }
            }
        }
    }
    refusals
}

/// The types that a description names, and none for an answer without a body.
fn types(description: &str) -> Vec<String> {
    let named = description.split('`');
    let mut types: Vec<_> = named
        .filter(|word| word.starts_with("/problems/"))
        .map(str::to_owned)
        .collect();
    if description.contains("without a body") {
        types.push(String::new());
    }
    types
}

#[tokio::test]
async fn every_documented_answer_is_given_and_every_answer_is_documented() {
    let app = TestApp::start().await;
    let document = app.api.get("/openapi.json").await.body;
    let id = app.api.post(ORDER).await.order_id();
    let operations = operations(&id);
    for operation in &operations {
        let answer = operation.ask(&app.api).await;
        assert!(answer.status < 300, "{answer:?}");
        expect_documented(&document, operation.method, operation.template, &answer);
    }
    let mut provoked = Provoked {
        document,
        refusals: BTreeSet::new(),
    };
    of_unreadable_heads(&mut provoked, &operations, &app.api).await;
    of_any_request(&mut provoked, &operations, &app).await;
    of_orders(&mut provoked, &operations[0], &app).await;
    of_one_order(&mut provoked, &operations, &app).await;
    of_cancelling(&mut provoked, &operations[4], &app).await;
    when_busy(&mut provoked, &operations, &app).await;
    // The last: it takes the table away.
    of_faults(&mut provoked, &operations, &app).await;
    let documented = documented(&provoked.document);
    assert_eq!(provoked.refusals, documented);
    assert!(documented.len() > 40, "{}", documented.len());
}

/// What the HTTP server refuses before there is a request.
async fn of_unreadable_heads(provoked: &mut Provoked, operations: &[Operation], api: &Api) {
    let many = "x: y\r\n".repeat(100);
    // All that the server takes in, and no more: what it leaves unread resets the connection.
    let large = format!("x: {}", "y".repeat(128 * 1024));
    let heads = [
        (400, "no header\r\n\r\n"),
        (408, "Host: x\r\n"),
        (431, &format!("Host: x\r\n{many}\r\n")),
        (431, &large),
    ];
    let cases = operations.iter().flat_map(|o| heads.map(|head| (o, head)));
    let said = cases.map(async |(operation, (expected, head))| {
        let method = operation.method.to_uppercase();
        let mut text = format!("{method} {} HTTP/1.1\r\n{head}", operation.path);
        text.truncate(128 * 1024);
        let (answer, _) = say_and_wait(api.address, &text).await;
        assert_eq!(status(&answer), expected, "{answer}");
        assert_eq!(body(&answer), "", "{answer}");
        (operation, expected)
    });
    for (operation, status) in join_all(said).await {
        provoked.note(operation, status, String::new());
    }
}

async fn of_any_request(provoked: &mut Provoked, operations: &[Operation], app: &TestApp) {
    let closed = Api::start(&proxy::closed().await, &[]);
    let fresh = format!("{}?schema=fresh", app.database.url());
    let fresh = Api::start(&fresh, &[]);
    for operation in operations {
        let long = format!("?x={}", "x".repeat(3_000));
        let long = answer(operation.request(&app.api, &long)).await;
        provoked.add(operation, &long, 414, "uri-too-long");
        let large = operation.request(&app.api, "");
        let large = answer(large.header("x-padding", "x".repeat(20_000))).await;
        provoked.add(operation, &large, 431, "headers-too-large");
        let away = operation.ask(&closed).await;
        provoked.add(operation, &away, 503, "database-unavailable");
        let unmigrated = operation.ask(&fresh).await;
        provoked.add(operation, &unmigrated, 503, "schema-incomplete");
    }
}

async fn of_orders(provoked: &mut Provoked, placing: &Operation, app: &TestApp) {
    let api = &app.api;
    let url = api.url("/orders");
    let large = " ".repeat(20_000);
    for (body, status, name) in [
        ("{", 400, "malformed-json"),
        ("{}", 422, "invalid-value"),
        (&*large, 413, "body-too-large"),
    ] {
        let refused = answer(order(api, &url, body)).await;
        provoked.add(placing, &refused, status, name);
    }
    let text = api.post_as("text/plain", ORDER).await;
    provoked.add(placing, &text, 415, "unsupported-media-type");

    let slow = "POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{";
    let (slow, _) = say_and_wait(api.address, slow).await;
    let problem: Value = serde_json::from_str(body(&slow)).unwrap();
    assert_eq!(
        (status(&slow), &problem["status"]),
        (408, &Value::from(408))
    );
    provoked.note(placing, 408, problem["type"].as_str().unwrap().to_owned());

    let with_key = |key: &str, body| answer(order(api, &url, body).header("idempotency-key", key));
    with_key("used", ORDER).await.order_id();
    let reused = with_key("used", r#"{"productId":"P-002"}"#).await;
    provoked.add(placing, &reused, 422, "key-reused");
    app.execute("begin; lock table outbox_event").await;
    let observer = app.database.connect().await;
    let second = async {
        crate::store::until_stuck(&observer).await;
        let second = with_key("in-flight", ORDER).await;
        app.execute("commit").await;
        second
    };
    let (first, second) = tokio::join!(with_key("in-flight", ORDER), second);
    first.order_id();
    provoked.add(placing, &second, 409, "key-in-flight");

    let url = proxy::losing_answers_to_commits(app.database.url()).await;
    let cut_off = Api::start(&url, &[("API__GROUP_COMMIT", "off")]);
    cut_off.until_ready().await;
    let lost = placing.ask(&cut_off).await;
    provoked.add(placing, &lost, 503, "outcome-unknown");
}

async fn of_one_order(provoked: &mut Provoked, operations: &[Operation], app: &TestApp) {
    let list = &operations[1];
    let refused = answer(list.request(&app.api, "?limit=0")).await;
    provoked.add(list, &refused, 422, "invalid-value");
    for operation in &operations[2..] {
        let unknown = Operation {
            path: operation.template.replace("/orders/{id}", UNKNOWN),
            ..operation.clone()
        };
        let unknown = unknown.ask(&app.api).await;
        provoked.add(operation, &unknown, 404, "order-not-found");
    }
}

async fn of_cancelling(provoked: &mut Provoked, cancelling: &Operation, app: &TestApp) {
    let stands = "update orders set cancelled_at = null";
    app.execute(stands).await;
    let url = proxy::losing_answers_to_commits(app.database.url()).await;
    let cut_off = Api::start(&url, &[]);
    cut_off.until_ready().await;
    let lost = cancelling.ask(&cut_off).await;
    provoked.add(cancelling, &lost, 503, "cancellation-unknown");
    app.execute(&format!(
        "{stands}, created_at = created_at - interval '1 year'"
    ))
    .await;
    let late = cancelling.ask(&app.api).await;
    provoked.add(cancelling, &late, 409, "too-late-to-cancel");
}

async fn when_busy(provoked: &mut Provoked, operations: &[Operation], app: &TestApp) {
    let few = [("API__POOL_SIZE", "1"), ("API__GROUP_COMMIT", "off")];
    let busy = Api::start(app.database.url(), &few);
    busy.until_ready().await;
    app.execute("begin; lock table orders").await;
    let observer = app.database.connect().await;
    let others = async {
        crate::store::until_stuck(&observer).await;
        join_all(operations.iter().map(|operation| operation.ask(&busy))).await
    };
    let (first, others) = tokio::join!(busy.get("/orders"), others);
    first.expect_unavailable("database-unavailable");
    app.execute("commit").await;
    for (operation, refused) in operations.iter().zip(others) {
        provoked.add(operation, &refused, 503, "busy");
    }
}

async fn of_faults(provoked: &mut Provoked, operations: &[Operation], app: &TestApp) {
    app.execute("alter table orders rename to elsewhere").await;
    for operation in operations {
        let failed = operation.ask(&app.api).await;
        provoked.add(operation, &failed, 500, "internal-error");
    }
}

#[tokio::test]
async fn what_belongs_to_no_operation_is_documented_where_it_applies() {
    let app = TestApp::start().await;
    let document = app.api.get("/openapi.json").await.body;
    for (path, item) in document["paths"].as_object().unwrap() {
        let answer = answer(app.api.http.delete(app.api.url(path))).await;
        answer.expect_problem(405, "method-not-allowed");
        let said = item["description"].as_str().unwrap();
        assert!(
            said.contains("405 `/problems/method-not-allowed`"),
            "{said}"
        );
    }
    let nowhere = app.api.get("/nowhere").await;
    nowhere.expect_problem(404, "not-found");
    let said = document["info"]["description"].as_str().unwrap();
    assert!(said.contains("404 `/problems/not-found`"), "{said}");
}
