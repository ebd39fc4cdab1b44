//! P1 and P9: Postgres is killed and started again under load. Each order that was answered with 201
//! exists with its event; each that was not exists whole or not at all.

use std::collections::BTreeSet;
use std::path::PathBuf;

use futures::future::join_all;
use local_stack::testing::eventually;
use local_stack::{Server, StackDir};
use order_api::migrate::migrate_within;

use crate::helpers::{Api, DEADLINE};

const ORDER: &str = r#"{"productId":"P-001"}"#;

/// A stack of this test's own, ended with this value.
struct OwnStack(StackDir, PathBuf);

impl Drop for OwnStack {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("the stack stays: {error}");
        }
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_answers_stay_true_while_postgres_is_killed_and_restarted() {
    let folder = std::env::temp_dir().join(format!("order-api-restart-{}", uuid::Uuid::now_v7()));
    let stack = OwnStack(StackDir::new(&folder), folder);
    let dir = stack.0.clone();
    let up = tokio::task::spawn_blocking(move || dir.up());
    let url = up.await.unwrap().unwrap().database_url;
    migrate_within(&url.parse().unwrap(), DEADLINE)
        .await
        .unwrap();
    let api = Api::start(&url, &[]);
    api.until_ready().await;

    let restarted = std::sync::atomic::AtomicBool::new(false);
    let done = || restarted.load(std::sync::atomic::Ordering::Relaxed);
    let load = join_all((0..16).map(async |_| {
        let mut answers = Vec::new();
        while !done() {
            answers.push(api.post(ORDER).await);
        }
        answers
    }));
    let restart = async {
        for _ in 0..2 {
            eventually("orders to be placed", DEADLINE, async || {
                (api.post(ORDER).await.status == 201).then_some(())
            })
            .await;
            let dir = stack.0.clone();
            let restart = tokio::task::spawn_blocking(move || {
                dir.kill(Server::Postgres).unwrap();
                dir.start(Server::Postgres).unwrap();
            });
            restart.await.unwrap();
        }
        // No restart of the service is needed.
        eventually("orders to be placed again", DEADLINE, async || {
            (api.post(ORDER).await.status == 201).then_some(())
        })
        .await;
        restarted.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (answers, ()) = tokio::join!(load, restart);

    let (mut placed, mut refused) = (BTreeSet::new(), 0);
    for answer in answers.iter().flatten() {
        if answer.body["type"].is_null() {
            assert!(placed.insert(answer.order_id()));
        } else {
            assert_eq!(answer.status, 503, "{answer:?}");
            refused += 1;
        }
    }
    println!("{} placed, {refused} refused or unknown", placed.len());
    assert!(placed.len() > 50 && refused > 0);
    let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let driving = tokio::spawn(connection);
    let rows = sql.query("select id::text from orders", &[]).await.unwrap();
    let stored: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(
        placed.is_subset(&stored),
        "an order that was answered with 201 is gone"
    );
    let halves = "select count(*) from orders full join outbox_event on key = orders.id::text
                  where orders.id is null or key is null";
    let halves: i64 = sql.query_one(halves, &[]).await.unwrap().get(0);
    assert_eq!(halves, 0);
    driving.abort();
}
