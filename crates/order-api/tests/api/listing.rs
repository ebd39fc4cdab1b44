//! `GET /orders`.

use serde_json::{Value, json};

use crate::helpers::TestApp;

#[tokio::test]
async fn orders_are_listed_newest_first_page_by_page() {
    let app = TestApp::start().await;
    let empty = app.api.get("/orders").await;
    assert_eq!(
        (empty.status, empty.body),
        (200, json!({"items": [], "next": null}))
    );
    let mut placed = Vec::new();
    for n in 0..25 {
        let body = format!(r#"{{"productId":"P-{n}"}}"#);
        placed.push(app.api.post(body).await.body);
    }
    placed.reverse();

    let first = app.api.get("/orders").await.body;
    assert_eq!(first["items"], json!(placed[..20]));
    let next = first["next"].as_str().unwrap();
    // What is placed in the meantime is on no later page.
    app.api.post(r#"{"productId":"later"}"#).await.order_id();
    let second = app.api.get(&format!("/orders?after={next}")).await.body;
    assert_eq!(second, json!({"items": placed[20..], "next": null}));

    let mut paged = Vec::new();
    let mut path = "/orders?limit=5".to_owned();
    loop {
        let page = app.api.get(&path).await.body;
        paged.extend(page["items"].as_array().unwrap().iter().cloned());
        let Value::String(next) = &page["next"] else {
            break;
        };
        path = format!("/orders?limit=5&after={next}");
    }
    assert_eq!(paged[1..], placed[..]);
}

#[tokio::test]
async fn a_query_that_is_wrong_names_its_parameter() {
    let app = TestApp::start().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("after=x", "after"),
    ] {
        let answer = app.api.get(&format!("/orders?{query}")).await;
        answer.expect_problem(422, "invalid-value");
        assert_eq!(answer.body["field"], field);
    }
}
