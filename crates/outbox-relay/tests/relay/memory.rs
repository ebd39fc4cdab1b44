//! What the relay takes in memory, whatever waits.

use local_stack::testing::{Spawned, eventually};

use crate::admin::delete_topic;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

/// Just below what a topic takes.
const LARGE: i32 = 1_000_000;
const EVENTS: i32 = 1_000;
/// Of each slot one such event is in flight (a batch has a byte budget, and at least one event).
/// It is there as a row, as a record and as a request at most, beside what the process always takes.
const BOUND: u64 = 200 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_backlog_of_large_events_does_not_fill_memory() {
    let fixture = Fixture::new().await;
    fixture
        .sql
        .execute(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
             select gen_random_uuid(), $1, 'k' || n % 300, 'T', to_json(repeat('x', $2))
             from generate_series(1, $3) n",
            &[&fixture.topic, &LARGE, &EVENTS],
        )
        .await
        .unwrap();
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    eventually("all to be published", PATIENCE * 4, async || {
        (fixture.count("published").await == i64::from(EVENTS)).then_some(())
    })
    .await;
    let peak = relay.peak_memory();
    delete_topic(&fixture.brokers, &fixture.topic).await;
    println!("{} MiB at most", peak / 1024 / 1024);
    assert!(peak < BOUND, "{peak} bytes");
}
