//! A Kafka that refuses for want of rights: somebody must act, and no event is to blame.

use std::net::SocketAddr;
use std::time::Duration;

use local_stack::testing::{Spawned, eventually, unique_topic};
use messaging::partition_of;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::acls::{Operation, Resource};
use crate::kafka_outage::metric;
use crate::load::Load;
use crate::metrics_and_readiness::check;
use crate::own_kafka::OwnKafka;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

/// What Kafka calls it.
const REFUSED: &str = "TopicAuthorizationFailed";

/// The log's lines with this message about this topic.
fn lines_about(relay: &Spawned, topic: &str, message: &str) -> Vec<Value> {
    let log = relay.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["topic"] == topic && line["message"] == message)
        .collect()
}

fn assert_once_a_minute(lines: &[Value]) {
    assert!(!lines.is_empty());
    let at = |line: &Value| OffsetDateTime::parse(line["timestamp"].as_str().unwrap(), &Rfc3339);
    for pair in lines.windows(2) {
        let apart = at(&pair[1]).unwrap() - at(&pair[0]).unwrap();
        assert!((60..70).contains(&apart.whole_seconds()), "{lines:?}");
    }
}

/// Waits until Kafka is reported as not ready for a reason like this one.
async fn until_told(ops: SocketAddr, part: &str) -> String {
    eventually("the reason to be told", PATIENCE, async || {
        let kafka = check(ops, "kafka").await;
        let reason = kafka["reason"].as_str().unwrap_or_default();
        reason.contains(part).then(|| reason.to_owned())
    })
    .await
}

async fn until_ready(ops: SocketAddr) {
    eventually("it to be ready", PATIENCE, async || {
        is_ready(ops).await.then_some(())
    })
    .await;
}

async fn is_ready(ops: SocketAddr) -> bool {
    let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
    answer.status().is_success()
}

async fn topic_that_may_not_be_created(kafka: &OwnKafka) -> String {
    let topic = unique_topic("refused");
    // Either right would do.
    for resource in [Resource::Cluster, Resource::Topic(&topic)] {
        kafka.refuse(resource, Operation::Create).await;
    }
    topic
}

impl Fixture {
    /// So many events are pending, or held since their partition or topic cannot be written.
    async fn assert_waiting(&self, events: i64) {
        let waiting = "select count(*) from outbox where state in ('pending', 'unavailable')";
        assert_eq!(self.number(waiting).await, events);
    }

    /// Some of each partition.
    async fn write_many(&self) {
        let keys: Vec<String> = (0..300).map(|n| format!("k{}", n % 30)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.write(&keys).await;
    }

    /// The events of `topic` are all there, once and in the order of their ids per key, and nothing
    /// is a dead letter.
    async fn assert_came_back_in_order(mut self, topic: String, events: usize, ops: SocketAddr) {
        assert_eq!(metric(ops, "outbox_holds_total{cause=\"dead\"}").await, 0);
        self.look_at(topic).await;
        let (by_key, copies) = self.published_by_key().await;
        assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), events);
        assert_in_order(&by_key);
        // A refusal leaves no doubt.
        assert_eq!(copies, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_p7_p8_a_topic_that_may_not_be_written_is_set_aside_until_it_may_be() {
    let kafka = OwnKafka::with_rights().await;
    let mut fixture = Fixture::on(&kafka.brokers).await;
    let refused = Resource::Topic(&fixture.topic);
    kafka.refuse(refused, Operation::Write).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write_many().await;
    let refused = fixture.with_another_topic().await;
    let load = Load::start(&fixture).await;
    fixture.until("unavailable", 300).await;
    fixture.until_at_work().await;
    // What comes later is held too.
    let open = std::mem::replace(&mut fixture.topic, refused);
    fixture.write_many().await;
    fixture.until("unavailable", 600).await;
    fixture.until_at_work().await;
    let kafka_check = check(ops, "kafka").await;
    let reason = kafka_check["reason"].as_str().unwrap();
    for part in [&format!("{}/", fixture.topic), REFUSED, ", since 20"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert!(!is_ready(ops).await);
    let told = "circuit open: the partition's events are held";
    let partitions = usize::try_from(PARTITIONS).unwrap();
    let told = lines_about(&relay, &fixture.topic, told).len();
    assert_eq!(told, partitions, "{}", relay.log());
    let still = eventually("a request of each to be told", PATIENCE, async || {
        let message = "cannot produce; trying again";
        let lines = lines_about(&relay, &fixture.topic, message);
        (lines.len() >= partitions).then_some(lines)
    })
    .await;
    // One line each: a minute has not passed.
    assert_eq!(still.len(), partitions, "{still:?}");
    assert_eq!(still[0]["needs_action"], true);

    kafka.refuse_nothing().await;
    fixture.until("unavailable", 0).await;
    let refused = std::mem::replace(&mut fixture.topic, open);
    let written = load.end().await;
    fixture.until_published(600 + written).await;
    until_ready(ops).await;
    fixture.assert_came_back_in_order(refused, 600, ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_while_nothing_may_be_written_it_waits_and_tells_where_why_and_since_when() {
    const MESSAGE: &str = "the circuit stays open; trying again";
    let kafka = OwnKafka::with_rights().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    let refused = Resource::Topic(&fixture.topic);
    kafka.refuse(refused, Operation::Write).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write(&["a"; 5]).await;
    let reason = eventually("it to see the stall", Duration::from_mins(1), async || {
        let progress = check(ops, "progress").await;
        (progress["ready"] == false).then(|| progress["reason"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(!is_ready(ops).await);
    let place = format!("{}/{}", fixture.topic, partition_of(b"a", PARTITIONS));
    for part in [
        &format!("event 1 of {place} has waited for 3"),
        &format!("{place}: kafka: "),
        REFUSED,
        ", since 20",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    // Once a minute: the first is of when it began to fail.
    let lines = eventually("it to be told again", Duration::from_mins(2), async || {
        let mut lines = lines_about(&relay, &fixture.topic, "cannot produce; trying again");
        lines.extend(lines_about(&relay, &fixture.topic, MESSAGE));
        (lines.len() > 1).then_some(lines)
    })
    .await;
    assert!(metric(ops, "outbox_retried_total").await > 8);
    assert_once_a_minute(&lines);
    for line in lines {
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["needs_action"], true);
        assert!(line["error"].as_str().unwrap().contains(REFUSED), "{line}");
    }
    fixture.assert_waiting(5).await;

    kafka.refuse_nothing().await;
    fixture.until_published(5).await;
    until_ready(ops).await;
    let topic = fixture.topic.clone();
    fixture.assert_came_back_in_order(topic, 5, ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_p7_p8_a_topic_that_may_not_be_created_is_set_aside_until_it_may_be() {
    const MESSAGE: &str = "cannot create a missing topic; trying again";
    let kafka = OwnKafka::with_rights().await;
    let mut fixture = Fixture::on(&kafka.brokers).await;
    let refused = topic_that_may_not_be_created(&kafka).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let open = std::mem::replace(&mut fixture.topic, refused);
    fixture.write_many().await;
    let reason = until_told(ops, "could not be created").await;
    for part in [&format!("{}: ", fixture.topic), REFUSED, ", since 20"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert!(!is_ready(ops).await);
    fixture.assert_waiting(300).await;

    for round in 1..=2 {
        let refused = std::mem::replace(&mut fixture.topic, open.clone());
        fixture.write_many().await;
        fixture.until_published(round * 300).await;
        fixture.topic = refused;
        fixture.until("unavailable", round * 300).await;
        if round == 1 {
            // What comes later is set aside too.
            fixture.write_many().await;
        }
    }
    let told = lines_about(&relay, &fixture.topic, MESSAGE);
    assert_once_a_minute(&told);
    let error = told[0]["error"].as_str().unwrap();
    assert!(error.contains(REFUSED), "{error}");

    // Whoever takes over asks for it too, although nothing is pending.
    drop(relay);
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    until_told(ops, REFUSED).await;
    assert_eq!(fixture.count("pending").await, 0);
    kafka.refuse_nothing().await;
    fixture.until_published(1_200).await;
    until_ready(ops).await;
    let refused = fixture.topic.clone();
    fixture.assert_came_back_in_order(refused, 600, ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_topic_that_may_not_be_seen_is_waited_for_and_told() {
    let kafka = OwnKafka::with_rights().await;
    let fixture = Fixture::on(&kafka.brokers).await;
    let hidden = Resource::Topic(&fixture.topic);
    kafka.refuse(hidden, Operation::Describe).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write_many().await;
    let reason = until_told(ops, "may not describe it").await;
    assert!(reason.contains(&fixture.topic), "{reason}");
    fixture.assert_waiting(300).await;
    let told = lines_about(
        &relay,
        &fixture.topic,
        "the topic exists, but this client may not describe it; trying again",
    );
    assert_eq!(told.len(), 1, "{}", relay.log());

    kafka.refuse_nothing().await;
    fixture.until_published(300).await;
    let topic = fixture.topic.clone();
    fixture.assert_came_back_in_order(topic, 300, ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_topic_that_may_not_be_created_is_set_aside_while_others_flow_and_stays_told() {
    let kafka = OwnKafka::with_rights().await;
    let mut fixture = Fixture::on(&kafka.brokers).await;
    let refused = topic_that_may_not_be_created(&kafka).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(100).await;
    let open = std::mem::replace(&mut fixture.topic, refused);
    fixture.write_many().await;
    fixture.until("unavailable", 300).await;
    fixture.until_at_work().await;
    let kafka_check = check(ops, "kafka").await;
    let reason = kafka_check["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(&fixture.topic), "{kafka_check}");
    kafka.refuse_nothing().await;
    let refused = std::mem::replace(&mut fixture.topic, open);
    let written = load.end().await;
    fixture.until_published(300 + written).await;
    fixture.assert_came_back_in_order(refused, 300, ops).await;
}
