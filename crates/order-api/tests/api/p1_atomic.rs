//! P1: an order exists if and only if its event does, and an answer never says otherwise.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use local_stack::testing::eventually;

use crate::helpers::{ANSWER_WITHIN, Answer, Api, DEADLINE, TestApp};
use crate::proxy;

/// With commits shared, and with one for each order.
const MODES: [&str; 2] = ["on", "off"];

async fn start(group_commit: &str) -> TestApp {
    TestApp::start_with(&[("API__GROUP_COMMIT", group_commit)]).await
}

const ORDER: &str = r#"{"productId":"P-001"}"#;

/// A trigger that ends the connection it runs on.
fn dying(timing: &str) -> String {
    format!(
        "create function die() returns trigger language plpgsql as $$ begin
             perform pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
             return null;
         end $$;
         create {timing} for each row execute function die()"
    )
}

const ORDERS_AND_EVENTS_MATCH: &str = "\
select count(*) from orders full join outbox_event on key = orders.id::text
where orders.id is null or key is null";

#[tokio::test]
async fn p1_an_order_without_its_event_never_exists() {
    for mode in MODES {
        let app = start(mode).await;
        app.execute(&dying("trigger die before insert on outbox_event"))
            .await;
        let answer = app.api.post(ORDER).await;
        answer.expect_unavailable("database-unavailable");
        assert_eq!(app.stored().await, (0, 0, 0));
        // The service goes on with another connection.
        app.execute("drop trigger die on outbox_event").await;
        app.api.post(ORDER).await.order_id();
        assert_eq!(app.stored().await, (1, 1, 1));
    }
}

#[tokio::test]
async fn p1_an_event_that_is_refused_takes_its_order_with_it() {
    for mode in MODES {
        let app = start(mode).await;
        app.execute(
            "alter table outbox_event add constraint never check (topic = 'none') not valid",
        )
        .await;
        let answer = app.api.post(ORDER).await;
        answer.expect_problem(500, "internal-error");
        let shown = answer.body.to_string();
        assert!(
            !shown.contains("never") && !shown.contains("outbox"),
            "{shown}"
        );
        assert_eq!(app.stored().await, (0, 0, 0));
        app.execute("alter table outbox_event drop constraint never")
            .await;
        app.api.post(ORDER).await.order_id();
    }
}

#[tokio::test]
async fn p1_a_statement_that_fails_for_good_is_an_internal_error() {
    for mode in MODES {
        let app = start(mode).await;
        app.execute(
            "create function refuse() returns trigger language plpgsql as
             $$ begin raise exception 'no'; end $$;
             create trigger refuse before insert on outbox_event
             for each row execute function refuse()",
        )
        .await;
        let answer = app.api.post(ORDER).await;
        answer.expect_problem(500, "internal-error");
        assert_eq!(app.stored().await, (0, 0, 0));
    }
}

const DYING_COMMIT: &str =
    "constraint trigger die after insert on orders deferrable initially deferred";

#[tokio::test]
async fn p1_a_connection_lost_during_the_commit_leaves_the_outcome_open() {
    let app = start("off").await;
    app.execute(&dying(DYING_COMMIT)).await;
    let answer = app.api.post(ORDER).await;
    answer.expect_problem(503, "outcome-unknown");
    // Whoever repeats it blindly may order twice.
    assert_eq!(answer.header("retry-after"), "");
    let path = format!("/orders/{}", answer.body["orderId"].as_str().unwrap());
    let asked = app.api.get(&path).await;
    asked.expect_problem(404, "order-not-found");
    assert_eq!(app.stored().await, (0, 0, 0));
}

#[tokio::test]
async fn p1_a_writer_finds_out_that_a_lost_commit_did_not_happen() {
    let app = start("on").await;
    app.execute(&dying(DYING_COMMIT)).await;
    let answer = app.api.post(ORDER).await;
    answer.expect_unavailable("database-unavailable");
    assert_eq!(app.stored().await, (0, 0, 0));
}

#[tokio::test]
async fn p1_an_order_whose_answer_was_lost_is_found_under_the_id_that_was_told() {
    let app = TestApp::start().await;
    let url = proxy::losing_answers_to_commits(app.database.url()).await;
    let cut_off = Api::start(&url, &[("API__GROUP_COMMIT", "off")]);
    cut_off.until_ready().await;
    let answer = cut_off.post(ORDER).await;
    answer.expect_problem(503, "outcome-unknown");
    let path = format!("/orders/{}", answer.body["orderId"].as_str().unwrap());
    assert_eq!(app.api.get(&path).await.status, 200);
    assert_eq!(app.stored().await, (1, 1, 1));
}

#[tokio::test]
async fn p1_a_writer_finds_out_that_a_lost_commit_did_happen() {
    let app = TestApp::start().await;
    let url = proxy::losing_answers_to_commits(app.database.url()).await;
    let cut_off = Api::start(&url, &[]);
    cut_off.until_ready().await;
    let placed = join_all((0..20).map(|_| cut_off.post(ORDER))).await;
    let ids: BTreeSet<_> = placed.iter().map(Answer::order_id).collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(app.stored().await, (20, 20, 20));
}

#[tokio::test]
async fn p1_a_commit_that_takes_too_long_leaves_the_outcome_open() {
    for mode in MODES {
        let app = start(mode).await;
        app.execute(
            "create function linger() returns trigger language plpgsql as
             $$ begin perform pg_sleep(60); return null; end $$;
             create constraint trigger linger after insert on orders deferrable initially deferred
             for each row execute function linger()",
        )
        .await;
        let answer = app.api.post(ORDER).await;
        answer.expect_problem(503, "outcome-unknown");
        assert!(answer.took < ANSWER_WITHIN, "{:?}", answer.took);
    }
}

/// Connections die at random moments under load. What was answered is what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_answers_stay_true_while_connections_are_killed() {
    for mode in MODES {
        answers_stay_true_while_connections_are_killed(mode).await;
    }
}

async fn answers_stay_true_while_connections_are_killed(mode: &str) {
    const KILL: &str = "\
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and application_name = 'order-api' and random() < 0.2";
    let app = start(mode).await;
    let load = join_all((0..12).map(async |_| {
        let mut answers = Vec::new();
        for _ in 0..60 {
            answers.push(app.api.post(ORDER).await);
        }
        answers
    }));
    let killed = Cell::new(0);
    let killing = async {
        loop {
            killed.set(killed.get() + app.number(KILL).await);
            // A rate, not a wait: slow enough that most requests succeed.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let answers = tokio::select! {
        answers = load => answers,
        () = killing => unreachable!("it goes on until the load has ended"),
    };
    let killed = killed.get();

    let (mut placed, mut unknown, mut refused) = (BTreeSet::new(), BTreeSet::new(), 0);
    for answer in answers.iter().flatten() {
        match answer.body["type"].as_str() {
            None => assert!(placed.insert(answer.order_id())),
            Some("/problems/outcome-unknown") => {
                unknown.insert(answer.body["orderId"].as_str().unwrap().to_owned());
            }
            // Connections are made again one after the other, and some wait for one in vain.
            Some("/problems/busy") => {
                answer.expect_unavailable("busy");
                refused += 1;
            }
            Some(_) => {
                answer.expect_unavailable("database-unavailable");
                refused += 1;
            }
        }
    }
    println!(
        "group commit {mode}: {} placed, {} unknown, {refused} refused, {killed} connections killed",
        placed.len(),
        unknown.len()
    );
    // A writer tries again by itself.
    assert!(
        killed > 10 && (mode == "on" || refused + unknown.len() > 0),
        "the kills met nobody"
    );
    assert!(placed.len() > 100);

    // Backends that were told to go may still be rolling back.
    eventually("the last transactions to end", DEADLINE, async || {
        let open = "select count(*) from pg_stat_activity where datname = current_database()
                    and application_name = 'order-api' and state <> 'idle'";
        (app.number(open).await == 0).then_some(())
    })
    .await;
    let stored: BTreeSet<_> = app
        .texts("select id::text from orders")
        .await
        .into_iter()
        .collect();
    assert!(
        placed.is_subset(&stored),
        "an order that was answered with 201 is gone"
    );
    let known: BTreeSet<_> = placed.union(&unknown).cloned().collect();
    assert!(
        stored.is_subset(&known),
        "an order that was refused is there"
    );
    assert_eq!(app.number(ORDERS_AND_EVENTS_MATCH).await, 0);
    assert_eq!(app.stored().await.0, app.stored().await.1);
}
