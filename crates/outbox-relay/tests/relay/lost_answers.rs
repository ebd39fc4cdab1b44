//! Chunks that fail when Kafka has them already, among others that it never got.

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};

use crate::kafka_outage::metric;
use crate::load::Load;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn p3_p4_chunks_whose_answer_is_lost_are_sent_again_in_order_and_nothing_else_is() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    // One batch of a slot makes several chunks, and each key is in all of them.
    variables.push(("RELAY__BATCH_BYTES_PER_SLOT", "4000000".to_owned()));
    let keys: Vec<String> = (0..300).map(|n| format!("large-{}", n % 20)).collect();
    let events: Vec<(&str, i32)> = keys.iter().map(|key| (key.as_str(), 40_000)).collect();
    let relay = Spawned::start(BINARY, &["run"], variables);
    let ops = relay.ops_address(PATIENCE).await;
    let load = Load::start(&fixture).await;
    let partitions = usize::try_from(PARTITIONS).unwrap();
    for round in 0..6 {
        fixture.until_more_are_published(100).await;
        let failures = metric(ops, "outbox_retried_total").await;
        let fault = match round % 2 {
            0 => Fault::LoseAnswer,
            _ => Fault::Refuse,
        };
        proxy.set(&fixture.topic, Some(fault));
        fixture.write_sized(&events).await;
        eventually("requests of all partitions to fail", PATIENCE, async || {
            let now = metric(ops, "outbox_retried_total").await;
            (now >= failures + 2 * partitions).then_some(())
        })
        .await;
        proxy.set(&fixture.topic, None);
    }
    let copies = fixture.assert_all_arrive_in_order(load).await;
    let sent_again = metric(ops, "outbox_resent_after_unknown_outcome_total").await;
    println!("{copies} copies, {sent_again} sent again");
    assert!(copies > 0, "no answer was lost");
    assert!(copies <= sent_again, "{copies} > {sent_again}");
    assert_eq!(metric(ops, "outbox_holds_total{cause=\"dead\"}").await, 0);
}
