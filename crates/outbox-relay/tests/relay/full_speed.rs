//! At which rate events flow beside a partition that cannot be written.

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};
use messaging::partition_of;

use crate::kafka_outage::metric;
use crate::process::BINARY;
use crate::soak::alone;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

const UNWRITABLE: i32 = 2;
/// Of all partitions together: each has about a sixth.
const EVENTS: i32 = 240_000;

/// How many events were published, and how many a second: from when the partition was set aside,
/// if one was, to the last.
const RATE: &str = "\
with begun as (
    select coalesce((select min(held_at) from outbox_held), min(processed_at)) as at
    from outbox_published)
select count(*), count(*) / extract(epoch from max(processed_at) - min(at))::float8
from outbox_published, begun where processed_at > at";

/// Drains the same events of the other partitions, with those of the unwritable one between them
/// or without; returns how many a second.
async fn rate(with_unwritable: bool) -> f64 {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    // Either time, since looking for it takes time. As a request names it: the topic, one
    // partition, its number.
    let name = format!("{}\0\0\0\u{1}\0\0\0\u{2}", fixture.topic);
    proxy.set(&name, Some(Fault::Refuse));
    let is_unwritable = |key: &str| partition_of(key.as_bytes(), PARTITIONS) == UNWRITABLE;
    // Each a key of its own: what follows a held one of its key would not even be tried.
    let keys: Vec<String> = (0..EVENTS).map(|n| format!("k{n}")).collect();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let others = keys.iter().filter(|key| !is_unwritable(key)).count();
    keys.retain(|key| with_unwritable || !is_unwritable(key));
    fixture.write(&keys).await;

    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    let ops = relay.ops_address(PATIENCE).await;
    eventually("all others to be published", PATIENCE * 4, async || {
        (metric(ops, "outbox_published_total").await == others).then_some(())
    })
    .await;
    let row = fixture.sql.query_one(RATE, &[]).await.unwrap();
    let (measured, rate): (i64, f64) = (row.get(0), row.get(1));
    println!("unwritable: {with_unwritable}, {measured} of {others} at {rate:.0} events/s");
    assert!(measured > i64::from(EVENTS) / 2, "{}", relay.log());
    assert_eq!(fixture.count("unavailable").await > 0, with_unwritable);
    rate
}

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn p8_beside_a_partition_that_cannot_be_written_the_others_flow_at_full_speed() {
    let _alone = alone().await;
    let before = rate(false).await;
    let beside = rate(true).await;
    // Whatever else the machine does may change meanwhile.
    let clean = before.min(rate(false).await);
    // To hold events is work, too. To wait a second with each batch would make it a seventh.
    assert!(
        beside > clean / 3.0,
        "{beside:.0} events/s beside {clean:.0}"
    );
}
