//! The relay's turn, one at a time.

use outbox_relay::Step;

use crate::support::{Fixture, PARTITIONS, assert_in_order};

#[tokio::test(flavor = "multi_thread")]
async fn p2_what_is_committed_is_published_once_where_its_key_belongs() {
    let fixture = Fixture::new().await;
    let keys: Vec<String> = (0..300).map(|n| format!("key-{}", n % 40)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    let mut stepped = fixture.relay(3);
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("published").await, 300);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 300);
    assert_eq!(copies, 0);
    assert_in_order(&by_key);
    assert_eq!(stepped.metrics.published.get(), 300);
    stepped.relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_with_events_in_flight_is_not_read() {
    let fixture = Fixture::new().await;
    fixture.write(&["one key"; 6]).await;
    let mut stepped = fixture.relay(2);
    let mut dispatched = Vec::new();
    stepped
        .step_until("two events on their way", |step| {
            step == Step::Dispatched(2)
        })
        .await;
    // Every following dispatch is of the same slot, so it must wait for the one before it.
    while dispatched.len() < 2 {
        let published = fixture.count("published").await;
        if let Step::Dispatched(events) = stepped.relay.step().await.unwrap() {
            dispatched.push((events, published));
        }
    }
    assert!(dispatched[0].1 <= 2 && dispatched[1].0 == 2);
    stepped.drain(&fixture).await;
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key["one key"], [1, 2, 3, 4, 5, 6]);
    assert_eq!(copies, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_events_of_a_held_key_wait_and_nothing_else_does() {
    let fixture = Fixture::new().await;
    fixture.write(&["held", "held", "free", "held"]).await;
    fixture
        .sql
        .batch_execute(
            "with moved as (delete from outbox_pending where id = 1 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, m.id, m.slot, e.topic, e.key, 'dead' from moved m join outbox_event e using (id)",
        )
        .await
        .unwrap();
    let mut stepped = fixture.relay(10);
    stepped.drain(&fixture).await;
    assert_eq!(fixture.count("published").await, 1);
    assert_eq!(fixture.count("blocked").await, 2);
    fixture
        .sql
        .batch_execute(
            "update outbox_held set discarded_at = now() where cause = 'dead';
             with moved as (delete from outbox_held where cause = 'blocked' returning slot, id)
             insert into outbox_pending select slot, id, 1 from moved",
        )
        .await
        .unwrap();
    stepped.drain(&fixture).await;
    let (by_key, _) = fixture.published_by_key().await;
    assert_eq!(by_key["held"], [2, 4]);
    assert_eq!(by_key["free"], [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_created_when_an_event_needs_it() {
    let mut fixture = Fixture::new().await;
    fixture.write(&["a", "b"]).await;
    fixture.topic = local_stack::testing::unique_topic("late");
    fixture.write(&["c"]).await;
    let mut stepped = fixture.relay(10);
    let published = stepped.metrics.published.clone();
    stepped
        .step_until("all three published", |_| published.get() == 3)
        .await;
    let counts = fixture.cluster.partition_counts().await.unwrap();
    assert_eq!(counts[&fixture.topic], PARTITIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_slots_reads_nothing() {
    let fixture = Fixture::new().await;
    let mut owner = fixture.relay(10);
    owner.step_until("slots", |step| step == Step::Idle).await;
    fixture.write(&["a"]).await;
    let mut idle = fixture.relay(10);
    assert_eq!(idle.relay.step().await.unwrap(), Step::NothingOwned);
}
