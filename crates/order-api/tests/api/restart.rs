//! P1 and P9: Postgres is killed and started again under load. Each order that was answered with 201
//! exists with its event; each that was not exists whole or not at all, and only where the answer
//! said that it might.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use local_stack::testing::{PostgresServer, TestDatabase, eventually};
use tokio_postgres::Client;

use crate::helpers::{Answer, Api, DEADLINE};

const ORDER: &str = r#"{"productId":"P-001"}"#;
/// With commits shared, and with one for each order.
const MODES: [&str; 2] = ["on", "off"];
const RESTARTS: usize = 2;
/// Orders between two restarts, so that one meets a service in full swing.
const ENOUGH: usize = 200;

/// Ends it without warning and starts it again.
async fn restart(postgres: &Arc<PostgresServer>) {
    let postgres = Arc::clone(postgres);
    let restart = tokio::task::spawn_blocking(move || {
        postgres.kill();
        postgres.start_again();
    });
    restart.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_answers_stay_true_while_postgres_is_killed_and_restarted() {
    let start = tokio::task::spawn_blocking(|| PostgresServer::start_empty(&[]));
    let postgres = Arc::new(start.await.unwrap());
    for mode in MODES {
        let database = TestDatabase::create_on(&postgres.url()).await;
        let api = Api::start(database.url(), &[("API__GROUP_COMMIT", mode)]);
        api.until_ready().await;
        let answers = place_during_restarts(&postgres, &api).await;
        audit(mode, &answers, &database.connect().await).await;
    }
}

/// Every answer to an order.
async fn place_during_restarts(postgres: &Arc<PostgresServer>, api: &Api) -> Vec<Answer> {
    let restarted = AtomicBool::new(false);
    let placed = AtomicUsize::new(0);
    let load = join_all((0..16).map(async |_| {
        let mut answers = Vec::new();
        while !restarted.load(Ordering::Relaxed) {
            let answer = api.post(ORDER).await;
            placed.fetch_add((answer.status == 201).into(), Ordering::Relaxed);
            answers.push(answer);
        }
        answers
    }));
    let restarts = async {
        // The last time after the last restart: no restart of the service is needed.
        for round in 0..=RESTARTS {
            let before = placed.load(Ordering::Relaxed);
            eventually("orders to be placed", DEADLINE, async || {
                (placed.load(Ordering::Relaxed) >= before + ENOUGH).then_some(())
            })
            .await;
            if round < RESTARTS {
                restart(postgres).await;
            }
        }
        restarted.store(true, Ordering::Relaxed);
    };
    let (answers, ()) = tokio::join!(load, restarts);
    answers.into_iter().flatten().collect()
}

async fn audit(mode: &str, answers: &[Answer], sql: &Client) {
    let (mut placed, mut unknown, mut refused) = (BTreeSet::new(), BTreeSet::new(), 0);
    for answer in answers {
        match answer.body["type"].as_str() {
            None => assert!(placed.insert(answer.order_id())),
            Some("/problems/outcome-unknown") => {
                unknown.insert(answer.body["orderId"].as_str().unwrap().to_owned());
            }
            Some(_) => {
                assert_eq!(answer.status, 503, "{answer:?}");
                refused += 1;
            }
        }
    }
    let (known, open) = (placed.len(), unknown.len());
    println!("group commit {mode}: {known} placed, {refused} refused, {open} unknown");
    assert!(refused + open > 0, "the restarts met nobody");
    let rows = sql.query("select id::text from orders", &[]).await.unwrap();
    let stored: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(
        placed.is_subset(&stored),
        "an order that was answered with 201 is gone"
    );
    let told: BTreeSet<String> = placed.union(&unknown).cloned().collect();
    assert!(
        stored.is_subset(&told),
        "an order that was refused is there"
    );
    let halves = "select count(*) from orders full join outbox_event on key = orders.id::text
                  where orders.id is null or key is null";
    let halves: i64 = sql.query_one(halves, &[]).await.unwrap().get(0);
    assert_eq!(halves, 0);
}
