//! What an operator is told while orders cannot be taken, and that no restart is needed.

use std::time::Duration;

use local_stack::testing::eventually;
use order_api::migrate::migrate_within;

use crate::helpers::{Api, DEADLINE, TestApp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmigrated_database_is_told_apart_and_migrating_it_is_enough() {
    let app = TestApp::start().await;
    let url = format!("{}?schema=fresh", app.database.url());
    let fresh = Api::start(&url, &[]);

    let answer = fresh.post(r#"{"productId":"P"}"#).await;
    answer.expect_unavailable("schema-incomplete");
    let reason = eventually("the reason", DEADLINE, async || {
        let (ready, reason) = fresh.readiness().await;
        assert!(!ready);
        reason.contains("migrations are missing").then_some(reason)
    })
    .await;
    assert!(reason.contains("00000000000011") && reason.contains("order-api migrate"));

    let applied = migrate_within(&url.parse().unwrap(), Duration::ZERO).await;
    let all = "select count(*) from public.__diesel_schema_migrations";
    let applied = i64::try_from(applied.unwrap().len()).unwrap();
    assert_eq!(applied, app.number(all).await);
    fresh.until_ready().await;
    fresh.post(r#"{"productId":"P"}"#).await.order_id();
    assert_eq!(app.number("select count(*) from fresh.orders").await, 1);
    assert_eq!(app.stored().await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_written_to_is_told() {
    let app = TestApp::start().await;
    let read_only = "options=-c%20default_transaction_read_only%3Don";
    let api = Api::start(&format!("{}?{read_only}", app.database.url()), &[]);
    let answer = api.post(r#"{"productId":"P"}"#).await;
    answer.expect_unavailable("database-unavailable");
    eventually("the reason", DEADLINE, async || {
        let (ready, reason) = api.readiness().await;
        assert!(!ready, "{reason}");
        reason.contains("cannot be written to").then_some(())
    })
    .await;
    assert_eq!(app.stored().await, (0, 0, 0));
}
