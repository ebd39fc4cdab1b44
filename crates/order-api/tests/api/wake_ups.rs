//! The relay is woken after a commit, and nobody waits for that.

use futures::StreamExt;
use local_stack::testing::eventually;
use storage::notify::{Channel, listen, wake_ups};

use crate::helpers::{DEADLINE, TestApp};

const ORDER: &str = r#"{"productId":"P-001"}"#;

#[tokio::test]
async fn a_commit_wakes_the_relay() {
    let app = TestApp::start().await;
    let mut relay = app.connection().await;
    listen(&mut relay, &[Channel::Outbox]).await.unwrap();
    app.api.post(ORDER).await.order_id();
    next_wake_up(&mut relay).await;
}

#[tokio::test]
async fn a_lost_connection_is_made_anew_and_hinders_no_request() {
    let app = TestApp::start().await;
    let mut relay = app.connection().await;
    listen(&mut relay, &[Channel::Outbox]).await.unwrap();
    eventually("the connection of wake-ups", DEADLINE, async || {
        let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where datname = current_database() and application_name = 'order-api-wake-up'";
        (app.number(kill).await == 1).then_some(())
    })
    .await;
    app.api.post(ORDER).await.order_id();
    next_wake_up(&mut relay).await;
}

async fn next_wake_up(relay: &mut storage::Connection) {
    let mut wake_ups = std::pin::pin!(wake_ups(relay));
    let woken = tokio::time::timeout(DEADLINE, wake_ups.next()).await;
    assert_eq!(woken.expect("a wake-up").unwrap().unwrap(), Channel::Outbox);
}
