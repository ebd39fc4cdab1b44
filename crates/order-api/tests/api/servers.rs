//! Several servers where `DATABASE_URL` leads: which of them is used.

use std::time::{Duration, Instant};

use local_stack::testing::{Mute, PostgresServer, Switch, TestDatabase, eventually};

use crate::helpers::{Api, DEADLINE};

const ORDER: &str = r#"{"productId":"P"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_orders_are_found_after_the_address_led_to_a_standby() {
    let primary = PostgresServer::start(&[]);
    let standby = primary.standby(&[]);
    let following = standby.connect().await;
    following
        .batch_execute("select pg_wal_replay_pause()")
        .await
        .unwrap();
    let switch = Switch::start(standby.port()).await;
    let port = primary.port().to_string();
    let url = primary.url().replace(&port, &switch.port().to_string());
    let api = Api::start(&url, &[]);
    // Each of these may open a connection for reading.
    for _ in 0..3 {
        let path = "/orders/0199aaaa-0000-7000-8000-000000000000";
        futures::future::join_all((0..8).map(|_| api.get(path))).await;
        assert!(!api.readiness().await.0);
    }
    switch.lead_to(primary.port());
    api.until_ready().await;
    for round in 0..20 {
        let id = api.post(ORDER).await.order_id();
        let path = format!("/orders/{id}");
        let found = futures::future::join_all((0..8).map(|_| api.get(&path))).await;
        let found: Vec<u16> = found.iter().map(|answer| answer.status).collect();
        assert_eq!(found, [200; 8], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mute_host_that_is_named_first_does_not_keep_it_from_being_ready() {
    let database = TestDatabase::create().await;
    for mute in [Mute::accepting().await, Mute::dropping().await] {
        let first = format!("@{},", mute.address());
        let api = Api::start(&database.url().replace('@', &first), &[]);
        let begun = Instant::now();
        eventually("the API to be ready", DEADLINE, async || {
            api.readiness().await.0.then_some(())
        })
        .await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        api.post(ORDER).await.order_id();
    }
}
