//! A broker that takes everything and answers nothing, until it is healed.

use std::time::{Duration, Instant};

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::kafka_outage::{BACK_WITHIN, metric};
use crate::load::Load;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

/// How long the answer to a produce request is waited for.
const PRODUCE_DEADLINE: Duration = Duration::from_secs(35);

async fn behind_a_proxy(fixture: &Fixture) -> (KafkaProxy, Spawned, Load) {
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    let load = Load::start(fixture).await;
    fixture.until_more_are_published(500).await;
    (proxy, relay, load)
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_once_a_mute_broker_answers_new_connections_work_goes_on_at_once() {
    let fixture = Fixture::new().await;
    let (proxy, relay, load) = behind_a_proxy(&fixture).await;
    let ops = relay.ops_address(PATIENCE).await;
    proxy.set_mute(true);
    let partitions = usize::try_from(PARTITIONS).unwrap();
    let all = "all requests that were out to be given up";
    eventually(all, PRODUCE_DEADLINE + PATIENCE, async || {
        (metric(ops, "outbox_retried_total").await >= partitions).then_some(())
    })
    .await;
    // The worst moment: somebody just began to connect, and that connection stays mute.
    let connections = proxy.accepted();
    eventually("another attempt to connect", PATIENCE, async || {
        (proxy.accepted() > connections).then_some(())
    })
    .await;
    proxy.set_mute(false);
    let took = fixture.until_at_work().await;
    println!("at work after {took:?}");
    assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    let copies = fixture.assert_all_arrive_in_order(load).await;
    let resent = metric(ops, "outbox_resent_after_unknown_outcome_total").await;
    assert!(copies <= resent, "{copies} copies, {resent} sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_requests_that_stay_unanswered_delay_work_by_their_deadline_and_no_more() {
    let fixture = Fixture::new().await;
    let (proxy, relay, load) = behind_a_proxy(&fixture).await;
    let muted = Instant::now();
    proxy.set(&fixture.topic, Some(Fault::Mute));
    // Each slot has something that waits behind a request without an answer.
    let published = "select count(*) from outbox_published";
    let mut before = -1;
    eventually("everything to stand still", PATIENCE, async || {
        let now = fixture.number(published).await;
        let still = now == before;
        before = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
        still.then_some(())
    })
    .await;
    proxy.set(&fixture.topic, None);
    fixture.until_at_work().await;
    let took = muted.elapsed();
    println!("at work {took:?} after it fell silent");
    assert!(
        took < PRODUCE_DEADLINE + BACK_WITHIN,
        "{took:?}\n{}",
        relay.log()
    );
    fixture.assert_all_arrive_in_order(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_relay_that_meets_a_mute_broker_first_goes_to_work_as_soon_as_it_is_healed() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set_mute(true);
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    let load = Load::start(&fixture).await;
    let ops = relay.ops_address(PATIENCE).await;
    eventually("it to say so", PATIENCE, async || {
        let report = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        let report = report.text().await.unwrap();
        report.contains("no answer within 10s").then_some(())
    })
    .await;
    proxy.set_mute(false);
    let took = fixture.until_at_work().await;
    println!("at work after {took:?}");
    assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    let copies = fixture.assert_all_arrive_in_order(load).await;
    assert_eq!(copies, 0);
}
