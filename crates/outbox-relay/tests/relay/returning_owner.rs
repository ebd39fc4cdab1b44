//! A relay that stands still while a partition fails, and gets its slots back from another that has
//! set the partition's events aside meanwhile.

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::kafka_outage::metric;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE, assert_in_order};

const UNWRITABLE: i32 = 2;
const EVENTS: i32 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn p3_p11_what_another_set_aside_comes_back_with_its_partition() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let broken = fixture.in_requests(UNWRITABLE);
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let first = Spawned::start(BINARY, &["run"], variables.clone());
    fixture.until_shared_by(1).await;
    proxy.set(&broken, Some(Fault::Refuse));
    fixture.write_to_partition(UNWRITABLE, EVENTS).await;
    fixture.write_to_partition(0, 1).await;
    let ops = first.ops_address(PATIENCE).await;
    eventually("the partition to fail", PATIENCE, async || {
        (metric(ops, "outbox_retried_total").await > 0).then_some(())
    })
    .await;
    // It had no time to set anything aside.
    first.pause();
    assert_eq!(fixture.count("unavailable").await, 0);
    let second = Spawned::start(BINARY, &["run"], variables);
    fixture.until_unavailable(EVENTS.into()).await;
    first.resume();
    fixture.until_shared_by(2).await;
    proxy.set(&broken, None);
    fixture.assert_progress(&[&first, &second], &[]).await;
    let (by_key, _) = fixture.published_by_key().await;
    assert_in_order(&by_key);
}
