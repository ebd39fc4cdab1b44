//! Nothing of what is known can be written, and what is missing comes back.

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually, unique_topic};

use crate::kafka_outage::metric;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

const EVENTS: i32 = 20;

/// A relay that cannot create topics, whose only topic fails from some moment on.
async fn failing() -> (Fixture, KafkaProxy, Spawned) {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    // More replicas than there are brokers.
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    for partition in 0..PARTITIONS {
        fixture.write_to_partition(partition, 1).await;
    }
    fixture.until_published(PARTITIONS.into()).await;
    (fixture, proxy, relay)
}

impl Fixture {
    fn all_partitions(topic: &str) -> Vec<(&str, i32)> {
        (0..PARTITIONS)
            .map(|partition| (topic, partition))
            .collect()
    }

    async fn write_to_all(&self) {
        for partition in 0..PARTITIONS {
            self.write_to_partition(partition, EVENTS).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_topic_that_appears_while_all_others_fail_gets_its_events() {
    let (mut fixture, proxy, relay) = failing().await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    fixture.write_to_all().await;
    let failing = std::mem::replace(&mut fixture.topic, unique_topic("missing"));
    fixture.write_to_all().await;
    // Both are known to fail.
    eventually("the missing topic to be noticed", PATIENCE, async || {
        relay.log().contains(&fixture.topic).then_some(())
    })
    .await;
    let (cluster, missing) = (&fixture.cluster, &fixture.topic);
    assert!(cluster.ensure_topic(missing, PARTITIONS, 1).await.unwrap());
    fixture
        .assert_progress(&[&relay], &Fixture::all_partitions(&failing))
        .await;
    proxy.set(&failing, None);
    fixture.assert_progress(&[&relay], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_topic_that_was_set_aside_as_missing_comes_back_while_all_others_fail() {
    let (mut fixture, proxy, relay) = failing().await;
    let failing = std::mem::replace(&mut fixture.topic, unique_topic("missing"));
    fixture.write_to_all().await;
    let waiting = i64::from(EVENTS * PARTITIONS);
    fixture.until_unavailable(waiting).await;
    let missing = std::mem::replace(&mut fixture.topic, failing);
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    fixture.write_to_all().await;
    assert!(
        fixture
            .cluster
            .ensure_topic(&missing, PARTITIONS, 1)
            .await
            .unwrap()
    );
    fixture
        .assert_progress(&[&relay], &Fixture::all_partitions(&fixture.topic))
        .await;
    proxy.set(&fixture.topic, None);
    fixture.assert_progress(&[&relay], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_partition_whose_events_lie_amid_those_of_a_failing_one_gets_them() {
    const FAILING: i32 = 2;
    const HEALTHY: i32 = 3;
    /// More than is read of a slot at once.
    const AROUND: i32 = 1_200;
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let failing = fixture.in_requests(FAILING);
    proxy.set(&failing, Some(Fault::Refuse));
    let of_failing = fixture.keys_of_slot(FAILING, 7, 10).await;
    let of_healthy = fixture.keys_of_slot(HEALTHY, 7, 10).await;
    fixture.write_over(&of_failing, AROUND, 10).await;
    fixture.write_over(&of_healthy, EVENTS, 10).await;
    fixture.write_over(&of_failing, AROUND, 10).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture
        .assert_progress(&[&relay], &[(&fixture.topic, FAILING)])
        .await;
    proxy.set(&failing, None);
    fixture.assert_progress(&[&relay], &[]).await;
    let (by_key, _) = fixture.published_by_key().await;
    assert_in_order(&by_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_partition_that_works_again_is_found_behind_events_of_a_missing_topic() {
    const PARTITION: i32 = 2;
    /// More than is read of a slot at once.
    const OF_THE_MISSING: i32 = 600;
    let mut fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    let keys = fixture.keys_of_slot(PARTITION, 7, 10).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    // More replicas than there are brokers: it cannot create topics.
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write_over(&keys, 1, 10).await;
    let ops = relay.ops_address(PATIENCE).await;
    eventually("the partition to fail", PATIENCE, async || {
        (metric(ops, "outbox_retried_total").await > 0).then_some(())
    })
    .await;
    // What it could not send, another sends: it is left with what it knows of the partition.
    relay.pause();
    let mut successor = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_published(1).await;
    successor.terminate();
    assert_eq!(successor.exit_code(PATIENCE).await, Some(0));
    relay.resume();
    fixture.until_shared_by(1).await;
    proxy.set(&fixture.topic, None);

    let existing = std::mem::replace(&mut fixture.topic, unique_topic("missing"));
    fixture.write_over(&keys, OF_THE_MISSING, 10).await;
    let missing = std::mem::replace(&mut fixture.topic, existing);
    fixture.write_over(&keys, EVENTS, 10).await;
    fixture
        .assert_progress(&[&relay], &Fixture::all_partitions(&missing))
        .await;
}

/// All that is tried of late fails, and what is well lies behind a backlog of that.
#[tokio::test(flavor = "multi_thread")]
async fn p11_a_partition_that_was_not_tried_of_late_is_found_behind_the_backlog_of_failing_ones() {
    let mut fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    // One slot: what can be read of it counts.
    fixture.write_over(&["hot".to_owned()], 20_000, 10).await;
    let failing = fixture.with_another_topic().await;
    fixture.write(&["hot"]).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture
        .assert_progress(&[&relay], &Fixture::all_partitions(&failing))
        .await;
    proxy.set(&failing, None);
    fixture.assert_progress(&[&relay], &[]).await;
}
