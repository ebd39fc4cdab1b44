//! Every way in which a request is refused by what it is. After each, nothing is stored.

use crate::helpers::{TestApp, answer};

#[tokio::test]
async fn a_body_that_is_no_json_is_malformed() {
    let app = TestApp::start().await;
    for body in [&b""[..], b"{", b"productId=P", b"{\"productId\":\"\xe9\"}"] {
        let answer = app.api.post_as("application/json", body).await;
        answer.expect_problem(400, "malformed-json");
        assert!(answer.body.get("field").is_none());
    }
    assert_eq!(app.stored().await, (0, 0, 0));
}

#[tokio::test]
async fn a_value_that_is_wrong_names_its_field() {
    let app = TestApp::start().await;
    let long = format!(r#"{{"productId":"{}"}}"#, "x".repeat(65));
    for (body, field) in [
        ("{}", "productId"),
        (r#"{"productId": 5}"#, "productId"),
        (r#"{"productId": ""}"#, "productId"),
        (r#"{"productId": "a b"}"#, "productId"),
        (&long, "productId"),
        (r#"{"productId": "P", "quantity": 0}"#, "quantity"),
        (r#"{"productId": "P", "quantity": 10001}"#, "quantity"),
        (r#"{"productId": "P", "quantity": 1.5}"#, "quantity"),
        (r#"{"productId": "P", "quantity": "2"}"#, "quantity"),
    ] {
        let answer = app.api.post(body).await;
        answer.expect_problem(422, "invalid-value");
        assert_eq!(answer.body["field"], field, "{body}");
        assert!(answer.body["detail"].as_str().unwrap().starts_with(field));
    }
    let answer = app.api.post("[]").await;
    answer.expect_problem(422, "invalid-value");
    assert_eq!(app.stored().await, (0, 0, 0));
}

#[tokio::test]
async fn a_body_of_another_kind_is_refused() {
    let app = TestApp::start().await;
    let order = r#"{"productId":"P"}"#;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let answer = app.api.post_as(content_type, order).await;
        answer.expect_problem(415, "unsupported-media-type");
    }
    let request = app.api.http.post(app.api.url("/orders"));
    let untyped = answer(request.body(order)).await;
    untyped.expect_problem(415, "unsupported-media-type");
    for codings in [&[&b"gzip"[..]][..], &[b"identity", b"gzip"], &[b"\xff"]] {
        let request = app.api.http.post(app.api.url("/orders"));
        let mut packed = request.header("content-type", "application/json");
        for coding in codings {
            packed = packed.header("content-encoding", *coding);
        }
        let packed = answer(packed.body(order)).await;
        packed.expect_problem(415, "unsupported-media-type");
    }
    assert_eq!(app.stored().await, (0, 0, 0));
}

#[tokio::test]
async fn a_body_over_16_kib_is_too_large_however_it_is_sent() {
    let app = TestApp::start().await;
    let padded = |length: usize| {
        let order = r#"{"productId":"P"}"#;
        format!("{order}{}", " ".repeat(length - order.len()))
    };
    for length in [16 * 1024 + 1, 4 * 1024 * 1024] {
        let sized = app.api.post(padded(length)).await;
        sized.expect_problem(413, "body-too-large");
        let pieces = padded(length).into_bytes();
        let pieces: Vec<_> = pieces.chunks(1000).map(<[u8]>::to_vec).collect();
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        let chunked = app
            .api
            .post_as("application/json", reqwest::Body::wrap_stream(pieces))
            .await;
        chunked.expect_problem(413, "body-too-large");
    }
    assert_eq!(app.stored().await, (0, 0, 0));
    assert_eq!(app.api.post(padded(16 * 1024)).await.status, 201);
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let app = TestApp::start().await;
    for path in ["/", "/order", "/orders/", "/orders/x/y"] {
        let answer = app.api.get(path).await;
        answer.expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let app = TestApp::start().await;
    for (method, path, allow) in [
        ("PUT", "/orders", "GET, HEAD, POST"),
        ("INVENTED", "/orders", "GET, HEAD, POST"),
        ("DELETE", "/orders/x", "GET, HEAD"),
        ("POST", "/orders/x/journey", "GET, HEAD"),
    ] {
        let method = method.parse().unwrap();
        let answer = answer(app.api.http.request(method, app.api.url(path))).await;
        answer.expect_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), allow);
    }
    assert_eq!(app.stored().await, (0, 0, 0));
}
