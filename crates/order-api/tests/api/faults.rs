//! Postgres away, silent, stuck, busy: the client is told in time, and the service recovers.

use crate::helpers::{Api, TestApp};
use crate::proxy;

const ORDER: &str = r#"{"productId":"P-001"}"#;
const SOME_ORDER: &str = "/orders/0190a5d0-0000-7000-8000-000000000001";

#[tokio::test]
async fn requests_are_refused_in_time_while_postgres_is_away() {
    let api = Api::start(&proxy::closed().await, &[]);
    let answer = api.post(ORDER).await;
    answer.expect_unavailable("database-unavailable");
    for path in [SOME_ORDER, &format!("{SOME_ORDER}/journey")] {
        let answer = api.get(path).await;
        answer.expect_unavailable("database-unavailable");
    }
    let (ready, reason) = api.readiness().await;
    assert!(
        !ready && reason.starts_with("waiting for Postgres: "),
        "{reason}"
    );
    // What the request itself is to blame for is still said.
    let answer = api.post("{}").await;
    answer.expect_problem(422, "invalid-value");
}

#[tokio::test]
async fn requests_are_refused_in_time_while_postgres_says_nothing() {
    let (url, _listener) = proxy::mute().await;
    let api = Api::start(&url, &[]);
    let many = (0..40).map(|_| api.post(ORDER));
    for answer in futures::future::join_all(many).await {
        let busy = answer.body["type"] == "/problems/busy";
        answer.expect_unavailable(if busy { "busy" } else { "database-unavailable" });
    }
}

#[tokio::test]
async fn a_statement_that_is_stuck_is_given_up_and_does_nothing_later() {
    let app = TestApp::start().await;
    app.execute("begin; lock table outbox_event").await;
    let answer = app.api.post(ORDER).await;
    answer.expect_unavailable("database-unavailable");
    app.execute("commit").await;
    // The connection it was stuck on is not used again.
    for _ in 0..20 {
        app.api.post(ORDER).await.order_id();
    }
    assert_eq!(app.stored().await, (20, 20, 20));
}

#[tokio::test]
async fn a_request_that_finds_no_free_connection_is_told_so() {
    let app = TestApp::start_with(&[("API__POOL_SIZE", "1"), ("API__GROUP_COMMIT", "off")]).await;
    app.execute("begin; lock table outbox_event").await;
    let mut answers = futures::future::join_all((0..3).map(|_| app.api.post(ORDER))).await;
    answers.sort_by_key(|answer| answer.took);
    answers[0].expect_unavailable("busy");
    answers[1].expect_unavailable("busy");
    answers[2].expect_unavailable("database-unavailable");
    app.execute("commit").await;
    app.api.post(ORDER).await.order_id();
    assert_eq!(app.stored().await, (1, 1, 1));
}

#[tokio::test]
async fn a_restart_of_postgres_is_survived() {
    let app = TestApp::start().await;
    futures::future::join_all((0..16).map(|_| app.api.post(ORDER))).await;
    app.number(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
    // Every connection is checked before it is used, so nobody notices.
    for _ in 0..20 {
        app.api.post(ORDER).await.order_id();
    }
}
