//! What the relay takes in memory, whatever waits.

use local_stack::testing::{Fault, KafkaProxy, Spawned, delete_topic, eventually};

use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

/// Just below what a topic takes.
const LARGE: i32 = 1_000_000;
/// What no topic takes here.
const GIANT: i32 = 16_000_000;
/// Of such events the budget's worth is in flight, and one more. They are there as rows, as records
/// and as requests at most, beside what the process always takes.
const BOUND: u64 = 128 * 1024 * 1024;
const GIANT_BOUND: u64 = 256 * 1024 * 1024;
/// What no broker reads.
const UNREAD: i32 = 100_000_000;
const UNREAD_BOUND: u64 = 64 * 1024 * 1024;

impl Fixture {
    /// Large events of so many keys.
    async fn write_large(&self, events: i32, keys: i32) {
        self.write_of(LARGE, events, keys).await;
    }

    async fn write_of(&self, bytes: i32, events: i32, keys: i32) {
        // From a table, so that Postgres compresses it once and not for each event.
        let payload = format!(
            "create temporary table if not exists large (payload json); truncate large;
             insert into large select to_json(repeat('x', {bytes}))"
        );
        self.sql.batch_execute(&payload).await.unwrap();
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), $1, 'k' || n % $3, 'T', payload
                 from large, generate_series(1, $2) n",
                &[&self.topic, &events, &keys],
            )
            .await
            .unwrap();
    }

    async fn until_large_are(&self, state: &str, events: i64) {
        eventually("all to get there", PATIENCE * 4, async || {
            (self.count(state).await == events).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_backlog_of_large_events_does_not_fill_memory() {
    let fixture = Fixture::new().await;
    fixture.write_large(1_000, 300).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_large_are("published", 1_000).await;
    let peak = relay.peak_memory();
    assert!(delete_topic(&fixture.brokers, &fixture.topic).await);
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < BOUND, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_giant_events_of_many_keys_do_not_fill_memory() {
    let fixture = Fixture::new().await;
    fixture.write_of(GIANT, 64, 64).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_large_are("dead", 64).await;
    let peak = relay.peak_memory();
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < GIANT_BOUND, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_events_that_no_broker_would_read_are_dead_without_being_read() {
    let fixture = Fixture::new().await;
    fixture.write_of(UNREAD, 2, 1).await;
    fixture.write(&["k0"]).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_large_are("dead", 2).await;
    fixture.until_large_are("blocked", 1).await;
    let told = "select count(*) from outbox_held
                where error like 'the event has 100000% bytes, more than 67108864'";
    assert_eq!(fixture.number(told).await, 2);
    let peak = relay.peak_memory();
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < UNREAD_BOUND, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_large_events_that_are_set_aside_and_come_back_do_not_fill_memory() {
    let mut fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    // All of one key: they lie in one slot and go to one partition.
    fixture.write_large(250, 1).await;
    let unwritable = fixture.with_another_topic().await;
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write(&["a"]).await;
    fixture.until_large_are("unavailable", 250).await;
    // Tested at least once more, with all there is to choose from.
    let tests = proxy.accepted() + 2;
    eventually("tests of the partition", PATIENCE, async || {
        (proxy.accepted() > tests).then_some(())
    })
    .await;
    proxy.set(&unwritable, None);
    fixture.until_large_are("published", 251).await;
    let peak = relay.peak_memory();
    assert!(delete_topic(&fixture.brokers, &unwritable).await);
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < BOUND, "{peak} bytes");
}
