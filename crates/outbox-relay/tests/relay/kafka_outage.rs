//! Kafka goes away as a whole and comes back, while events are written all the time.

use std::net::SocketAddr;
use std::time::Duration;

use local_stack::testing::{Spawned, eventually};

use crate::load::Load;
use crate::metrics_and_readiness;
use crate::own_kafka::OwnKafka;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

/// Kafka being back, each partition is written again within this time: a test comes after 8 s at
/// most, and those of the other partitions follow within some seconds.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(20);
const HOLDS: &str = "outbox_holds_total{cause=\"unavailable\"}";
/// Events in flight at most: of each slot one batch.
const IN_FLIGHT: usize = 32 * 512;

/// A counter's or gauge's value.
pub(crate) async fn metric(ops: SocketAddr, series: &str) -> usize {
    metrics_and_readiness::metric(ops, series)
        .await
        .parse()
        .unwrap()
}

/// The relay that was there before the outage ends in order, and holds nothing against any event.
async fn assert_unharmed(fixture: &Fixture, mut relay: Spawned, ops: SocketAddr) {
    assert_eq!(metric(ops, "outbox_holds_total{cause=\"dead\"}").await, 0);
    let held = "select count(*) from outbox_held";
    let held = fixture.number(held).await;
    assert_eq!(held, 0, "all came back");
    relay.terminate();
    let code = relay.exit_code(Duration::from_secs(10)).await;
    assert_eq!(code, Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_kafka_that_is_restarted_or_killed_costs_nothing_and_work_goes_on_at_once() {
    let kafka = OwnKafka::start().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let load = Load::start(&fixture).await;
    for abruptly in [false, true] {
        fixture.until_more_are_published(500).await;
        if abruptly {
            kafka.kill().await;
        } else {
            kafka.stop().await;
        }
        let failures = metric(ops, "outbox_retried_total").await;
        let holds = metric(ops, HOLDS).await;
        // So long that circuits are open, and tests of them have failed.
        eventually("many attempts to fail", PATIENCE, async || {
            let failed = metric(ops, "outbox_retried_total").await > failures + 20;
            (failed && metric(ops, HOLDS).await > holds).then_some(())
        })
        .await;
        kafka.start_again().await;
        let took = fixture.until_at_work().await;
        println!("abruptly: {abruptly}, at work after {took:?}");
        assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    }
    let copies = fixture.assert_all_arrive_in_order(load).await;
    assert!(copies <= 2 * IN_FLIGHT, "{copies} copies");
    assert_unharmed(&fixture, relay, ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_kafka_that_stands_still_for_a_minute_costs_nothing_and_work_goes_on_at_once() {
    let kafka = OwnKafka::start().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(500).await;
    kafka.freeze().await;
    // The time is the point: requests that were out give up after 35 s, and what follows meets a
    // Kafka that still stands still.
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(metric(ops, "outbox_retried_total").await > 0);
    kafka.thaw().await;
    let took = fixture.until_at_work().await;
    println!("at work after {took:?}");
    assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    let copies = fixture.assert_all_arrive_in_order(load).await;
    assert!(copies <= IN_FLIGHT, "{copies} copies");
    assert_unharmed(&fixture, relay, ops).await;
}
