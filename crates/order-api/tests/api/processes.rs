//! The header `Idempotency-Key` towards real processes that know nothing of each other: it holds
//! through their ends and between them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use local_stack::testing::{TestDatabase, eventually};
use tokio_postgres::Client;

use crate::helpers::{Answer, DEADLINE, answer};
use crate::process::Process;

const ORDER: &str = r#"{"productId":"P-001"}"#;

async fn post(api: &Process, key: &str, body: &'static str) -> Answer {
    let request = reqwest::Client::new().post(api.url("/orders"));
    let request = request.header("content-type", "application/json");
    answer(request.header("idempotency-key", key).body(body)).await
}

async fn number(sql: &Client, query: &str) -> i64 {
    sql.query_one(query, &[]).await.unwrap().get(0)
}

async fn orders(sql: &Client) -> i64 {
    number(sql, "select count(*) from orders").await
}

#[track_caller]
fn expect_replayed(again: &Answer, first: &Answer) {
    assert_eq!((again.status, &again.body), (201, &first.body), "{again:?}");
    assert_eq!(again.header("idempotent-replayed"), "true");
}

#[tokio::test]
async fn a_key_holds_in_another_process_and_after_restarts() {
    let database = TestDatabase::create().await;
    let sql = database.connect().await;
    let mut one = Process::serve(database.url(), &[]).await;
    let other = Process::serve(database.url(), &[("API__GROUP_COMMIT", "off")]).await;
    let first = post(&one, "key", ORDER).await;
    first.order_id();
    assert_eq!(first.header("idempotent-replayed"), "");
    expect_replayed(&post(&other, "key", ORDER).await, &first);
    let reused = post(&other, "key", r#"{"productId":"P-002"}"#).await;
    reused.expect_problem(422, "key-reused");

    one.spawned.terminate();
    assert_eq!(one.spawned.exit_code(DEADLINE).await, Some(0));
    other.spawned.kill();
    let restarted = Process::serve(database.url(), &[]).await;
    expect_replayed(&post(&restarted, "key", ORDER).await, &first);
    let reused = post(&restarted, "key", r#"{"productId":"P-002"}"#).await;
    reused.expect_problem(422, "key-reused");
    assert_eq!(orders(&sql).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_requests_to_two_processes_with_one_key_make_one_order() {
    let database = TestDatabase::create().await;
    let sql = database.connect().await;
    let one = Process::serve(database.url(), &[]).await;
    let other = Process::serve(database.url(), &[]).await;
    for round in 0..5 {
        let key = format!("key-{round}");
        let posts = (0..64).map(|n| post([&one, &other][n % 2], &key, ORDER));
        let answers = join_all(posts).await;
        let (placed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
        for answer in &refused {
            answer.expect_problem(409, "key-in-flight");
        }
        let new = |answer: &&&Answer| answer.header("idempotent-replayed").is_empty();
        assert_eq!(placed.iter().filter(new).count(), 1);
        let ids: BTreeSet<String> = placed.iter().map(|answer| answer.order_id()).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(orders(&sql).await, round + 1);
        // Whoever was refused learns the answer from either.
        for api in [&one, &other] {
            let again = post(api, &key, ORDER).await;
            assert!(ids.contains(&again.order_id()));
        }
    }
}

/// A process is killed at the worst moment: its order is written and not yet committed.
#[tokio::test]
async fn a_key_whose_process_was_killed_in_the_middle_can_be_used_again() {
    let database = TestDatabase::create().await;
    let sql = database.connect().await;
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table outbox_event")
        .await
        .unwrap();
    let doomed = Process::serve(database.url(), &[]).await;
    let other = Process::serve(database.url(), &[]).await;
    let request = reqwest::Client::new().post(doomed.url("/orders"));
    let request = request
        .header("content-type", "application/json")
        .header("idempotency-key", "key")
        .body(ORDER);
    let lost = tokio::spawn(request.send());
    crate::store::until_stuck(&sql).await;
    post(&other, "key", ORDER)
        .await
        .expect_problem(409, "key-in-flight");
    doomed.spawned.kill();
    assert!(lost.await.unwrap().is_err());
    lock.batch_execute("commit").await.unwrap();
    // Postgres notices that nobody is there when it wants to answer.
    let placed = eventually("the key to be free", DEADLINE, async || {
        let answer = post(&other, "key", ORDER).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    placed.order_id();
    assert_eq!(placed.header("idempotent-replayed"), "");
    assert_eq!(orders(&sql).await, 1);
    let events = number(&sql, "select count(*) from outbox_event").await;
    assert_eq!(events, 1);
}

#[tokio::test]
async fn keys_live_as_long_as_is_set_and_are_cleaned_while_the_process_runs() {
    const LIFETIME: Duration = Duration::from_secs(3);
    let database = TestDatabase::create().await;
    let sql = database.connect().await;
    let api = Process::serve(database.url(), &[("API__IDEMPOTENCY_TTL", "3s")]).await;
    let began = Instant::now();
    let first = post(&api, "key", ORDER).await;
    first.order_id();
    let again = post(&api, "key", ORDER).await;
    if began.elapsed() < LIFETIME {
        expect_replayed(&again, &first);
    }
    eventually("the key to be cleaned", DEADLINE, async || {
        let keys = number(&sql, "select count(*) from idempotency_key").await;
        (keys == 0).then_some(())
    })
    .await;
    assert!(began.elapsed() >= LIFETIME, "cleaned too early");
    let new = post(&api, "key", ORDER).await;
    assert_ne!(new.order_id(), first.order_id());
    assert_eq!(new.header("idempotent-replayed"), "");
    assert_eq!(orders(&sql).await, 2);
}
