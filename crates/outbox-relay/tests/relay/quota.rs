//! Kafka asks the relay to slow down.

use local_stack::testing::{Quota, Spawned, set_quota};

use crate::kafka_outage::metric;
use crate::own_kafka::OwnKafka;
use crate::process::BINARY;
use crate::progress::readiness;
use crate::support::{Fixture, PATIENCE, assert_in_order};

/// As the services call themselves.
const CLIENT_ID: &str = "transactional-outbox";
const ROUNDS: i64 = 8;
const EVENTS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn p3_p4_p11_a_throttled_request_is_answered_and_nothing_is_sent_again() {
    let kafka = OwnKafka::start().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    set_quota(&kafka.brokers, CLIENT_ID, Quota::Produce, Some(10_000.0)).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let keys: Vec<String> = (0..EVENTS).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let each = i64::try_from(EVENTS).unwrap();
    for round in 1..=ROUNDS {
        fixture.write(&keys).await;
        fixture.until_published(round * each).await;
        let (status, report) = readiness(ops).await;
        assert_eq!(status, 200, "{report}");
    }
    let (by_key, copies) = fixture.published_by_key().await;
    assert_in_order(&by_key);
    assert_eq!(copies, 0, "{}", relay.log());
    assert_eq!(metric(ops, "outbox_retried_total").await, 0);
    assert_eq!(
        metric(ops, "outbox_resent_after_unknown_outcome_total").await,
        0
    );
}
