//! The header `Idempotency-Key`: one order however often, wherever and whenever it is asked for.

use std::time::Duration;

use futures::future::join_all;
use local_stack::testing::eventually;
use order_api::idempotency_retention::{self, Progress};
use order_api::store::Store;
use order_api::wake_up::WakeUps;
use tokio::runtime::Handle;

use crate::helpers::{Answer, Api, DEADLINE, TestApp, answer};
use crate::proxy;

const ORDER: &str = r#"{"productId":"P-001"}"#;
const MODES: [&str; 2] = ["on", "off"];

async fn post(api: &Api, key: &str, body: &'static str) -> Answer {
    let request = api.http.post(api.url("/orders"));
    let request = request.header("content-type", "application/json");
    answer(request.header("idempotency-key", key).body(body)).await
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_answer_and_another_one_is_refused() {
    for mode in MODES {
        let app = TestApp::start_with(&[("API__GROUP_COMMIT", mode)]).await;
        let first = post(&app.api, "key-1", ORDER).await;
        let id = first.order_id();
        assert_eq!(first.header("idempotent-replayed"), "");
        // Another process, or the same one after a restart.
        let other = Api::start(app.database.url(), &[("API__GROUP_COMMIT", mode)]);
        for api in [&app.api, &other] {
            let again = post(api, "key-1", ORDER).await;
            assert_eq!((again.status, &again.body), (201, &first.body));
            assert_eq!(again.header("idempotent-replayed"), "true");
            assert_eq!(again.header("location"), format!("/orders/{id}"));
            assert_eq!(again.header("content-type"), "application/json");
            let reused = post(api, "key-1", r#"{"productId":"P-002"}"#).await;
            reused.expect_problem(422, "key-reused");
        }
        assert_ne!(post(&app.api, "key-2", ORDER).await.order_id(), id);
        assert_eq!(app.stored().await, (2, 2, 2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_requests_with_one_key_make_one_order() {
    for mode in MODES {
        let app = TestApp::start_with(&[("API__GROUP_COMMIT", mode)]).await;
        let other = Api::start(app.database.url(), &[("API__GROUP_COMMIT", mode)]);
        other.until_ready().await;
        for round in 0..5 {
            let key = format!("key-{round}");
            let posts = (0..64).map(|n| post([&app.api, &other][n % 2], &key, ORDER));
            let answers = join_all(posts).await;
            let (mut new, mut ids) = (0, Vec::new());
            for answer in &answers {
                if answer.status == 409 {
                    answer.expect_problem(409, "key-in-flight");
                    assert!(!answer.header("retry-after").is_empty());
                    continue;
                }
                ids.push(answer.order_id());
                new += usize::from(answer.header("idempotent-replayed").is_empty());
            }
            ids.dedup();
            assert_eq!((new, ids.len()), (1, 1), "group commit {mode}");
            assert_eq!(app.stored().await.0, round + 1);
        }
    }
}

#[tokio::test]
async fn a_key_is_in_use_while_its_first_request_runs_elsewhere() {
    let app = TestApp::start().await;
    let other = Api::start(app.database.url(), &[]);
    other.until_ready().await;
    app.execute("begin; lock table outbox_event").await;
    let observer = app.database.connect().await;
    let first = post(&app.api, "key", ORDER);
    let second = async {
        crate::store::until_stuck(&observer).await;
        post(&other, "key", ORDER)
            .await
            .expect_problem(409, "key-in-flight");
        // A neighbour does not wait for the key.
        app.execute("commit").await;
    };
    let (first, ()) = tokio::join!(first, second);
    let again = post(&other, "key", ORDER).await;
    assert_eq!(again.body, first.body);
    assert_eq!(app.stored().await, (1, 1, 1));
}

#[tokio::test]
async fn a_request_that_failed_leaves_its_key_unused() {
    for mode in MODES {
        let app = TestApp::start_with(&[("API__GROUP_COMMIT", mode)]).await;
        app.execute("alter table outbox_event add constraint never check (false) not valid")
            .await;
        post(&app.api, "key", ORDER)
            .await
            .expect_problem(500, "internal-error");
        assert_eq!(app.number("select count(*) from idempotency_key").await, 0);
        app.execute("alter table outbox_event drop constraint never")
            .await;
        let placed = post(&app.api, "key", ORDER).await;
        placed.order_id();
        assert_eq!(placed.header("idempotent-replayed"), "");
    }
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_may_be_repeated_under_its_key() {
    let app = TestApp::start().await;
    let url = proxy::losing_answers_to_commits(app.database.url()).await;
    let cut_off = Api::start(&url, &[("API__GROUP_COMMIT", "off")]);
    cut_off.until_ready().await;
    let lost = post(&cut_off, "key", ORDER).await;
    lost.expect_unavailable("outcome-unknown");
    let again = post(&app.api, "key", ORDER).await;
    assert_eq!(again.order_id(), lost.body["orderId"].as_str().unwrap());
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(app.stored().await, (1, 1, 1));
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_is_refused_and_named() {
    let app = TestApp::start().await;
    for key in [&"x".repeat(256), "", "a b"] {
        let answer = post(&app.api, key, ORDER).await;
        answer.expect_problem(422, "invalid-value");
        assert_eq!(answer.body["field"], "Idempotency-Key");
    }
    post(&app.api, &"x".repeat(255), ORDER).await.order_id();
    assert_eq!(app.stored().await, (1, 1, 1));
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_lifetime() {
    let app = TestApp::start_with(&[("API__IDEMPOTENCY_TTL", "1h")]).await;
    let first = post(&app.api, "key", ORDER).await.order_id();
    let age = "update idempotency_key set created_at = created_at - interval '61 min'";
    app.execute(age).await;
    // Also before it is cleaned.
    let second = post(&app.api, "key", ORDER).await;
    assert_ne!(second.order_id(), first);
    let again = post(&app.api, "key", ORDER).await;
    assert_eq!(again.body, second.body);

    app.execute(
        "insert into idempotency_key select 'old-' || n, '', 201, '', gen_random_uuid(), now() - interval '61 min'
         from generate_series(1, 1500) n",
    )
    .await;
    let url = app.database.url().parse().unwrap();
    let store = Store::new(&url, 1, Handle::current(), WakeUps::default());
    let store = store.with_key_lifetime(Duration::from_hours(1));
    assert_eq!(
        idempotency_retention::step(&store).await.unwrap(),
        Progress::More
    );
    assert_eq!(
        app.number("select count(*) from idempotency_key").await,
        501
    );
    assert_eq!(
        idempotency_retention::step(&store).await.unwrap(),
        Progress::Done
    );
    assert_eq!(app.texts("select key from idempotency_key").await, ["key"]);
}

#[tokio::test]
async fn the_service_cleans_old_keys_by_itself() {
    let app = TestApp::start().await;
    app.execute(
        "insert into idempotency_key select 'old-' || n, '', 201, '', gen_random_uuid(), now() - interval '25 h'
         from generate_series(1, 2500) n",
    )
    .await;
    let _restarted = Api::start(app.database.url(), &[]);
    eventually("the old keys to go", DEADLINE, async || {
        (app.number("select count(*) from idempotency_key").await == 0).then_some(())
    })
    .await;
}
