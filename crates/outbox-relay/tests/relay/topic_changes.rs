//! The topic is deleted, comes back, and grows, while events are written all the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use domain::EventId;
use local_stack::testing::{Fault, KafkaProxy, Spawned, delete_topic, eventually, unique_topic};
use messaging::{envelope, partition_of};

use crate::kafka_outage::BACK_WITHIN;
use crate::load::Load;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE};
use crate::topic_operations::grow_topic;

/// A change of the number of partitions is noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// An event in the topic.
struct Found {
    partition: i32,
    id: i64,
}

/// What the topic has of each key, partition by partition, in the order of offsets.
async fn found_by_key(fixture: &Fixture) -> HashMap<String, Vec<Found>> {
    let rows = "select event_id::text, id, key from outbox_event";
    let rows = fixture.sql.query(rows, &[]).await.unwrap();
    let known: HashMap<EventId, (i64, String)> = rows
        .iter()
        .map(|row| {
            let event_id = row.get::<_, &str>(0).parse().unwrap();
            (event_id, (row.get(1), row.get(2)))
        })
        .collect();
    let mut found: HashMap<String, Vec<Found>> = HashMap::new();
    for (partition, records) in fixture.records().await {
        for record in records {
            let (id, key) = &known[&envelope::decode(&record).unwrap().event_id];
            let found = found.entry(key.clone()).or_default();
            if !found.iter().any(|found| found.id == *id) {
                found.push(Found { partition, id: *id });
            }
        }
    }
    found
}

async fn ids_by_key(fixture: &Fixture) -> HashMap<String, Vec<i64>> {
    let rows = "select key, array_agg(id order by id) from outbox_event group by key";
    let rows = fixture.sql.query(rows, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// All is published, and the topic that is there now has the latest events of each key, in order
/// and without a gap: those before them were accepted by the topic that is gone.
async fn assert_each_key_goes_on_without_a_gap(fixture: &Fixture, load: Load) {
    let written = load.end().await;
    fixture.until_published(written).await;
    let mut found = found_by_key(fixture).await;
    for (key, ids) in ids_by_key(fixture).await {
        let found = found.remove(&key).unwrap_or_default();
        let found: Vec<i64> = found.iter().map(|found| found.id).collect();
        assert!(!found.is_empty(), "key {key}");
        assert!(ids.ends_with(&found), "key {key}: {found:?} of {ids:?}");
    }
}

/// How often the relay made the topic.
fn made_again(relay: &Spawned, topic: &str) -> usize {
    let log = relay.log();
    let lines = log.lines().filter(|line| line.contains("created a topic"));
    lines.filter(|line| line.contains(topic)).count()
}

/// Under load, nothing keeps the relay from publishing for long.
async fn assert_at_work(fixture: &Fixture, relay: &Spawned) {
    let before = Instant::now();
    fixture.until_more_are_published(100).await;
    let took = before.elapsed();
    assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_topic_that_is_deleted_is_made_again_and_goes_on_at_once() {
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let load = Load::start(&fixture).await;
    for round in 1..=2 {
        fixture.until_more_are_published(500).await;
        assert!(delete_topic(&fixture.brokers, &fixture.topic).await);
        let deleted = Instant::now();
        // Until then the one that goes away may still take events.
        eventually("the relay to make it again", PATIENCE, async || {
            (made_again(&relay, &fixture.topic) == round).then_some(())
        })
        .await;
        fixture.until_at_work().await;
        let took = deleted.elapsed();
        println!("at work after {took:?}");
        assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    }
    // Some of each key.
    fixture.until_more_are_published(1_000).await;
    assert_each_key_goes_on_without_a_gap(&fixture, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_topic_that_nobody_makes_again_for_long_goes_on_as_soon_as_it_is_there() {
    let fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    // More replicas than there are brokers: the relay cannot make it.
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(500).await;
    assert!(delete_topic(&fixture.brokers, &fixture.topic).await);
    let ops = relay.ops_address(PATIENCE).await;
    // Long enough for all that is done about a topic that is missing.
    eventually("the reason to be told", PATIENCE, async || {
        let report = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        let report = report.text().await.unwrap();
        report.contains("the topic does not exist").then_some(())
    })
    .await;
    let (cluster, topic) = (&fixture.cluster, &fixture.topic);
    assert!(cluster.ensure_topic(topic, PARTITIONS, 1).await.unwrap());
    let took = fixture.until_at_work().await;
    println!("at work after {took:?}");
    assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    assert_each_key_goes_on_without_a_gap(&fixture, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_what_was_set_aside_for_a_missing_topic_goes_out_as_soon_as_it_is_there() {
    let mut fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write(&["a"]).await;
    fixture.until_published(1).await;
    // Nothing is written there that would make the relay look for it again.
    fixture.topic = unique_topic("missing");
    fixture.write(&["a", "b", "a", "c"]).await;
    fixture.until("unavailable", 4).await;
    let (cluster, topic) = (&fixture.cluster, &fixture.topic);
    assert!(cluster.ensure_topic(topic, PARTITIONS, 1).await.unwrap());
    let there = Instant::now();
    eventually("the first one of it", PATIENCE, async || {
        (fixture.count("published").await > 1).then_some(())
    })
    .await;
    let took = there.elapsed();
    println!("at work after {took:?}");
    assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
    fixture.until_published(5).await;
    println!("all after {:?}", there.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_kafka_refuses_to_make_is_asked_for_less_and_less_often() {
    let mut fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_REPLICATION_FACTOR", "2".to_owned()));
    variables.push(("RUST_LOG", "info,outbox_relay=debug".to_owned()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    // Each read finds events of it, and there are many.
    let existing = std::mem::replace(&mut fixture.topic, unique_topic("missing"));
    let begun = Instant::now();
    fixture.write(&["a"]).await;
    let missing = std::mem::replace(&mut fixture.topic, existing);
    let load = Load::start(&fixture).await;
    // After 0, 1, 3 and 7 seconds.
    eventually("the fourth attempt", PATIENCE, async || {
        let log = relay.log();
        let refusals = log
            .lines()
            .filter(|l| l.contains("cannot create a missing topic"));
        (refusals.filter(|l| l.contains(&missing)).count() >= 4).then_some(())
    })
    .await;
    let took = begun.elapsed();
    println!("four attempts in {took:?}");
    assert!(took > Duration::from_secs(6), "{took:?}\n{}", relay.log());
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_partitions_that_are_added_are_used_and_each_key_moves_in_order() {
    const GROWN: i32 = PARTITIONS + 3;
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(500).await;
    grow_topic(&fixture.brokers, &fixture.topic, GROWN).await;
    let grown = Instant::now();
    let used = "select count(distinct kafka_partition) from outbox_published";
    while fixture.number(used).await < i64::from(GROWN) {
        assert!(grown.elapsed() < NOTICED_WITHIN, "{}", relay.log());
        assert_at_work(&fixture, &relay).await;
    }
    println!("used after {:?}", grown.elapsed());
    fixture.until_more_are_published(500).await;
    let written = load.end().await;
    fixture.until_published(written).await;
    let found = found_by_key(&fixture).await;
    for (key, ids) in ids_by_key(&fixture).await {
        let before = partition_of(key.as_bytes(), PARTITIONS);
        let after = partition_of(key.as_bytes(), GROWN);
        let of = |partition| found[&key].iter().filter(move |f| f.partition == partition);
        let in_order: Vec<i64> = if before == after {
            of(before).map(|found| found.id).collect()
        } else {
            of(before).chain(of(after)).map(|found| found.id).collect()
        };
        assert_eq!(in_order, ids, "key {key}\n{}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_topic_that_goes_away_stops_no_other_while_a_request_is_unanswered() {
    let mut fixture = Fixture::new().await;
    let unrelated = unique_topic("unrelated");
    let created = fixture.cluster.ensure_topic(&unrelated, 1, 1).await;
    assert!(created.unwrap());
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut variables = fixture.variables();
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.write(&["a"]).await;
    fixture.until_published(1).await;
    proxy.set(&fixture.topic, Some(Fault::Mute));
    fixture.write(&["a"]).await;
    fixture.with_another_topic().await;
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(500).await;
    assert!(delete_topic(&fixture.brokers, &unrelated).await);
    // Whenever it is noticed meanwhile.
    let deleted = Instant::now();
    while deleted.elapsed() < NOTICED_WITHIN {
        assert_at_work(&fixture, &relay).await;
    }
    load.end().await;
}
