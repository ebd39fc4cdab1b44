//! What few bytes may be in flight are shared by all slots.

use std::ops::Range;

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE, assert_in_order};

/// Of each slot one large event fits, and of all slots five.
const BYTES_PER_SLOT: i32 = 1_000;
const LARGE: i32 = BYTES_PER_SLOT * 7;
/// All but the last of the 32.
const CROWDED: Range<i32> = 0..24;
const OTHERS: Range<i32> = 24..32;

impl Fixture {
    /// As many events for each of these slots, of a key each, one after the other.
    async fn write_to_slots(&self, slots: Range<i32>, events_per_slot: i32, bytes: i32) -> i64 {
        let written = self
            .sql
            .execute(
                "with k as (
                     select distinct on (slot) slot, key
                     from generate_series(1, 2000) n, lateral (select 'k' || n) k(key),
                          lateral (select (hashtextextended(key, 0) & 31)::int) s(slot)
                     where slot >= $1 and slot < $2 order by slot, n)
                 insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), $3, k.key, 'T', to_json(repeat('x', $5))
                 from k, generate_series(1, $4) n order by n, slot",
                &[
                    &slots.start,
                    &slots.end,
                    &self.topic,
                    &events_per_slot,
                    &bytes,
                ],
            )
            .await
            .unwrap();
        i64::try_from(written).unwrap()
    }

    fn with_little_room(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.variables();
        variables.push(("RELAY__BATCH_BYTES_PER_SLOT", BYTES_PER_SLOT.to_string()));
        variables
    }

    async fn pending_of(&self, topic: &str) -> i64 {
        let pending = "select count(*) from outbox where state = 'pending' and topic = $1";
        self.sql.query_one(pending, &[&topic]).await.unwrap().get(0)
    }

    /// Waits until nothing of the topic is pending; tells how much of `other` was then.
    async fn pending_when_done_with(&self, topic: &str, other: &str) -> i64 {
        eventually("the topic", PATIENCE, async || {
            let left = self.pending_of(other).await;
            (self.pending_of(topic).await == 0).then_some(left)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_of_many_slots_leave_room_for_the_other_slots() {
    let mut fixture = Fixture::new().await;
    let large = fixture.write_to_slots(CROWDED, 40, LARGE).await;
    let crowded = fixture.with_another_topic().await;
    let small = fixture.write_to_slots(OTHERS, 20, 1).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.with_little_room());
    let left = fixture
        .pending_when_done_with(&fixture.topic, &crowded)
        .await;
    println!("{left} of {large} left");
    assert!(left > large * 3 / 4, "{left} of {large} left");
    fixture.until_published(large + small).await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_large_events_that_cannot_be_written_let_small_ones_of_other_slots_pass() {
    let mut fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    let mut variables = fixture.with_little_room();
    variables.retain(|(name, _)| *name != "KAFKA_BROKERS");
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let large = fixture.write_to_slots(CROWDED, 40, LARGE).await;
    let unwritable = fixture.with_another_topic().await;
    let small = fixture.write_to_slots(OTHERS, 20, 1).await;
    let relay = Spawned::start(BINARY, &["run"], variables);
    let left = fixture
        .pending_when_done_with(&fixture.topic, &unwritable)
        .await;
    println!("{left} of {large} left");
    assert_eq!(fixture.count("published").await, small);
    assert!(left > large * 3 / 4, "{left} of {large} left");

    fixture.until("unavailable", large).await;
    proxy.set(&unwritable, None);
    fixture.until_published(large + small).await;
    fixture.look_at(unwritable).await;
    let (by_key, _) = fixture.published_by_key().await;
    let arrived: usize = by_key.values().map(Vec::len).sum();
    assert_eq!(i64::try_from(arrived).unwrap(), large);
    assert_in_order(&by_key);
    drop(relay);
}
