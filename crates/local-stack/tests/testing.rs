//! What tests use of the default stack.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use local_stack::testing::{TestDatabase, eventually, unique_topic};

#[tokio::test]
async fn each_test_has_a_migrated_database_of_its_own_while_it_runs() {
    let (one, other) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    assert_ne!(one.url(), other.url());
    let (client, onlooker) = (one.connect().await, other.connect().await);
    let name: String = client
        .query_one("select current_database()::text", &[])
        .await
        .unwrap()
        .get(0);
    let events = "select count(*) from outbox_event";
    let insert = "insert into outbox_event (event_id, topic, key, event_type, payload)
        values (gen_random_uuid(), 't', 'k', 'e', '{}')";
    client.batch_execute(insert).await.unwrap();
    assert_eq!(
        client
            .query_one(events, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
    assert_eq!(
        onlooker
            .query_one(events, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );

    // Dropped although a connection is open.
    drop(one);
    let found = onlooker
        .query_opt("select 1 from pg_database where datname = $1", &[&name])
        .await;
    assert!(found.unwrap().is_none());
}

#[test]
fn topics_are_unique() {
    assert_ne!(unique_topic("orders"), unique_topic("orders"));
    assert!(unique_topic("orders").starts_with("orders-"));
}

#[tokio::test]
async fn a_condition_is_waited_for() {
    let began = Instant::now();
    let probe = async || (began.elapsed() > Duration::from_millis(50)).then_some("value");
    assert_eq!(
        eventually("a value", Duration::from_secs(5), probe).await,
        "value"
    );
}

#[tokio::test]
#[should_panic(expected = "in vain for a value")]
async fn a_condition_that_never_holds_is_named() {
    eventually("a value", Duration::from_millis(50), async || None::<()>).await;
}
