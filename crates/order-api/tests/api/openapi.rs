//! The OpenAPI document says what the server does.

use serde_json::Value;

use crate::helpers::{Answer, TestApp};

/// Whether the document knows an answer to this operation: its status, its type, and, for JSON, the
/// names of its fields.
#[track_caller]
pub(crate) fn expect_documented(document: &Value, method: &str, path: &str, answer: &Answer) {
    let responses = &document["paths"][path][method]["responses"];
    let response = &responses[answer.status.to_string()];
    let content = response["content"].as_object().unwrap_or_else(|| {
        panic!("{method} {path} {} is not documented", answer.status);
    });
    let content_type = answer.header("content-type").split(';').next().unwrap();
    let mut schema = &content[content_type]["schema"];
    if let Some(reference) = schema["$ref"].as_str() {
        schema = document.pointer(&reference[1..]).unwrap();
    }
    let fields = schema["properties"].as_object().unwrap();
    for name in answer.body.as_object().unwrap().keys() {
        assert!(
            fields.contains_key(name),
            "{name} of {path} is not documented"
        );
    }
    for name in schema["required"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        assert!(answer.body.get(name).is_some(), "{path} has no {name}");
    }
    if answer.status >= 400 {
        let described = response["description"].as_str().unwrap();
        let problem = answer.body["type"].as_str().unwrap();
        assert!(
            described.contains(problem),
            "{problem} is not in {described}"
        );
    }
}

#[tokio::test]
async fn the_document_describes_what_is_answered() {
    let app = TestApp::start().await;
    let document = app.api.get("/openapi.json").await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let post =
        async |body: &'static str, content_type: &str| app.api.post_as(content_type, body).await;
    let json = "application/json";
    let placed = post(r#"{"productId":"P"}"#, json).await;
    let id = placed.order_id();
    for answer in [
        placed,
        post("{", json).await,
        post("{}", json).await,
        post("{}", "text/plain").await,
        app.api.post(" ".repeat(20_000)).await,
    ] {
        expect_documented(&document, "post", "/orders", &answer);
    }
    for (path, template) in [
        ("/orders".to_owned(), "/orders"),
        ("/orders?limit=0".to_owned(), "/orders"),
        (format!("/orders/{id}"), "/orders/{id}"),
        ("/orders/x".to_owned(), "/orders/{id}"),
        (format!("/orders/{id}/journey"), "/orders/{id}/journey"),
        ("/orders/x/journey".to_owned(), "/orders/{id}/journey"),
    ] {
        expect_documented(&document, "get", template, &app.api.get(&path).await);
    }
    app.execute("alter table orders rename to elsewhere").await;
    let failed = app.api.get("/orders").await;
    expect_documented(&document, "get", "/orders", &failed);
}

#[tokio::test]
async fn the_page_needs_no_network() {
    let app = TestApp::start().await;
    let page = app.api.http.get(app.api.url("/docs")).send().await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("openapi.json"));
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "an address elsewhere"
    );
}
