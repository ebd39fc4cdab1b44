//! A wrong request is refused with a problem that says what is wrong, and stores nothing.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::api::Answer;
use crate::world::World;

const JSON: &str = "application/json";

struct Wrong {
    body: &'static str,
    content_type: &'static str,
    status: u16,
    problem: &'static str,
    field: Option<&'static str>,
}

const REQUESTS: [Wrong; 5] = [
    Wrong {
        body: r#"{"productId":"e2e wrong"}"#,
        content_type: JSON,
        status: 422,
        problem: "/problems/invalid-value",
        field: Some("productId"),
    },
    Wrong {
        body: r#"{"productId":"e2e-wrong","quantity":0}"#,
        content_type: JSON,
        status: 422,
        problem: "/problems/invalid-value",
        field: Some("quantity"),
    },
    Wrong {
        body: r#"{"quantity":1}"#,
        content_type: JSON,
        status: 422,
        problem: "/problems/invalid-value",
        field: Some("productId"),
    },
    Wrong {
        body: r#"{"productId":"#,
        content_type: JSON,
        status: 400,
        problem: "/problems/malformed-json",
        field: None,
    },
    Wrong {
        body: "productId=e2e-wrong",
        content_type: "application/x-www-form-urlencoded",
        status: 415,
        problem: "/problems/unsupported-media-type",
        field: None,
    },
];

/// Sends wrong requests and looks whether anything came of them.
pub(crate) async fn store_nothing(world: &mut World) -> Result<String> {
    for wrong in &REQUESTS {
        let answer = world
            .api
            .post_orders(wrong.content_type, wrong.body)
            .await?;
        ensure_problem(&answer, wrong.status, wrong.problem, wrong.field)?;
    }
    let nobody = uuid::Uuid::now_v7();
    let answer = world.api.get(&format!("/orders/{nobody}")).await?;
    ensure_problem(&answer, 404, "/problems/order-not-found", None)?;
    world.check_books().await?;
    Ok(format!(
        "{} wrong requests are answered with problem+json and stored nothing",
        REQUESTS.len() + 1
    ))
}

fn ensure_problem(answer: &Answer, status: u16, problem: &str, field: Option<&str>) -> Result<()> {
    ensure!(
        answer.status == status
            && answer.content_type == "application/problem+json"
            && answer.body["status"] == status
            && answer.body["type"] == problem
            && answer.body.get("field").and_then(Value::as_str) == field,
        "expected {status} {problem} for {field:?}, answered {answer:?}"
    );
    Ok(())
}
