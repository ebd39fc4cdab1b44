//! Events that can never be produced.

use crate::support::{Fixture, assert_in_order};
use crate::topic_operations::limit_messages;

/// Larger than a topic takes.
const TOO_LARGE: i32 = 1_200_000;
/// Larger than what a broker reads at all: it closes the connection, as if it went away.
const GIANT: i32 = 105_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn p8_an_impossible_event_holds_its_key_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture
        .write_sized(&[
            ("bad", 1),
            ("good", 1),
            ("bad", TOO_LARGE),
            ("bad", 1),
            ("good", 1),
        ])
        .await;
    let mut stepped = fixture.relay_of_large_batches();
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("published").await, 3);
    assert_eq!(fixture.count("dead").await, 1);
    assert_eq!(fixture.count("blocked").await, 1);
    // Those that come later are read as blocked, those of other keys are not.
    fixture.write(&["bad", "good", "bad"]).await;
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("blocked").await, 3);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key["bad"], [1]);
    assert_eq!(by_key["good"], [2, 5, 7]);
    assert_eq!(copies, 0);
    let row = fixture
        .sql
        .query_one(
            "select d.error, d.attempts, b.blocked_by from outbox_held d, outbox_held b
             where d.cause = 'dead' and b.id = 4",
            &[],
        )
        .await
        .unwrap();
    let error: String = row.get(0);
    assert!(error.contains("MessageTooLarge"), "{error}");
    assert!(row.get::<_, i32>(1) >= 1);
    assert_eq!(row.get::<_, i64>(2), 3);
    assert_eq!(stepped.metrics.holds.dead.get(), 1);
    assert_eq!(stepped.metrics.holds.blocked.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_the_guilty_are_found_among_many_and_order_holds() {
    let fixture = Fixture::new().await;
    let keys: Vec<String> = (0..400).map(|n| format!("k{}", n % 50)).collect();
    let events: Vec<(&str, i32)> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| {
            let size = if place % 97 == 13 { TOO_LARGE } else { 2_000 };
            (key.as_str(), size)
        })
        .collect();
    fixture.write_sized(&events).await;
    let mut stepped = fixture.relay_of_large_batches();
    stepped.drain(&fixture).await;
    // 13, 110, 207, 304 and, behind each, those of its key.
    let guilty = [13, 110, 207, 304];
    let behind = (0..400_usize)
        .filter(|place| guilty.iter().any(|g| place > g && place % 50 == g % 50))
        .filter(|place| !guilty.contains(place))
        .count();
    assert_eq!(fixture.count("dead").await, 4);
    assert_eq!(
        fixture.count("blocked").await,
        i64::try_from(behind).unwrap()
    );
    assert_eq!(fixture.count("pending").await, 0);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 396 - behind);
    assert_eq!(copies, 0);
    assert_in_order(&by_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_what_its_topic_does_not_take_is_found_in_requests_that_are_refused_as_a_whole() {
    let fixture = Fixture::new().await;
    // Requests of many small records are larger than that, too.
    limit_messages(&fixture.brokers, &fixture.topic, 20_000).await;
    let keys: Vec<String> = (0..3_000).map(|n| format!("k{}", n % 600)).collect();
    let events: Vec<(&str, i32)> = keys
        .iter()
        .enumerate()
        .map(|(place, key)| (key.as_str(), if place == 700 { 25_000 } else { 500 }))
        .collect();
    fixture.write_sized(&events).await;
    let mut stepped = fixture.relay_of_large_batches();
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("dead").await, 1);
    // It is the second of the five of its key.
    assert_eq!(fixture.count("blocked").await, 3);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 2_996);
    assert_eq!(copies, 0);
    assert_in_order(&by_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_an_event_that_no_broker_would_read_is_dead_and_the_others_go_on() {
    let fixture = Fixture::new().await;
    fixture
        .write_sized(&[("a", 1), ("a", GIANT), ("a", 1), ("b", 1)])
        .await;
    let mut stepped = fixture.relay(10);
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("dead").await, 1);
    assert_eq!(fixture.count("blocked").await, 1);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!((&by_key["a"][..], &by_key["b"][..]), (&[1][..], &[4][..]));
    assert_eq!(copies, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_is_dead_not_waited_for() {
    let mut fixture = Fixture::new().await;
    let topic = std::mem::replace(&mut fixture.topic, "no such: topic!".to_owned());
    fixture.write(&["a", "b"]).await;
    fixture.topic = topic;
    fixture.write(&["a"]).await;
    let mut stepped = fixture.relay(10);
    let held = stepped.metrics.holds.dead.clone();
    stepped.step_until("both dead", |_| held.get() == 2).await;
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("published").await, 1);
}
