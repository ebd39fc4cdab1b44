//! What an operator sees of a running relay: metrics, readiness, and what retention leaves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use local_stack::testing::{Fault, KafkaProxy, Spawned, eventually};
use messaging::partition_of;
use serde_json::Value;

use crate::own_postgres::OwnPostgres;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");
/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn with(fixture: &Fixture, name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let mut variables = fixture.variables();
    variables.retain(|(known, _)| *known != name);
    variables.push((name, value.to_owned()));
    variables
}

pub(crate) async fn metric(ops: SocketAddr, series: &str) -> String {
    let text = reqwest::get(format!("http://{ops}/metrics")).await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.unwrap_or_else(|| panic!("{series} in\n{text}"));
    value.trim().to_owned()
}

/// One check of `/readyz`.
pub(crate) async fn check(ops: SocketAddr, name: &str) -> Value {
    let report = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
    let report: Value = report.json().await.unwrap();
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["name"] == name)
        .cloned()
        .unwrap_or_default()
}

async fn reason_of_stall(ops: SocketAddr) -> String {
    eventually("it to see the stall", Duration::from_mins(1), async || {
        let progress = check(ops, "progress").await;
        (progress["ready"] == false).then(|| progress["reason"].as_str().unwrap().to_owned())
    })
    .await
}

async fn until_ready(ops: SocketAddr) {
    eventually("it to be ready", PATIENCE, async || {
        let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        answer.status().is_success().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gauges_tell_what_waits_what_is_held_and_who_holds_vacuum_back() {
    let fixture = Fixture::new().await;
    fixture.write(&["a", "a", "b", "c"]).await;
    fixture
        .sql
        .batch_execute(
            "update outbox_event set created_at = now() - interval '100 seconds' where id = 4;
             with moved as (delete from outbox_pending where id < 3 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, m.id, m.slot, e.topic, e.key, case m.id when 1 then 'dead' else 'blocked' end
             from moved m join outbox_event e using (id)",
        )
        .await
        .unwrap();
    let reader = fixture.database.connect().await;
    reader
        .batch_execute("begin isolation level repeatable read; select from outbox_event")
        .await
        .unwrap();
    let variables = with(&fixture, "KAFKA_BROKERS", NOWHERE);
    let relay = Spawned::start(BINARY, &["run"], variables);
    let ops = relay.ops_address(PATIENCE).await;
    eventually("a look at the backlog", PATIENCE, async || {
        (metric(ops, "outbox_backlog ").await == "2").then_some(())
    })
    .await;
    assert_eq!(metric(ops, "outbox_held{cause=\"dead\"}").await, "1");
    assert_eq!(metric(ops, "outbox_held{cause=\"blocked\"}").await, "1");
    assert_eq!(metric(ops, "outbox_published_total").await, "0");
    let age = metric(ops, "outbox_oldest_pending_age_seconds").await;
    let age: f64 = age.parse().unwrap();
    assert!((100.0..200.0).contains(&age), "{age}");
    let horizon = metric(ops, "outbox_snapshot_horizon_age_seconds").await;
    let horizon: f64 = horizon.parse().unwrap();
    assert!(horizon > 0.0, "{horizon}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_when_nothing_moves_and_only_then() {
    let (stuck, blocked) = (Fixture::new().await, Fixture::new().await);
    stuck.write(&["a"]).await;
    // Nothing of this can be sent: that is an operator's business, not the relay's.
    blocked.write(&["a", "a"]).await;
    blocked
        .sql
        .batch_execute(
            "with moved as (delete from outbox_pending where id = 1 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, m.id, m.slot, e.topic, e.key, 'dead'
             from moved m join outbox_event e using (id)",
        )
        .await
        .unwrap();
    let nowhere = with(&stuck, "KAFKA_BROKERS", NOWHERE);
    let stuck_relay = Spawned::start(BINARY, &["run"], nowhere);
    let parked_relay = Spawned::start(BINARY, &["run"], blocked.variables());
    let stuck_ops = stuck_relay.ops_address(PATIENCE).await;
    let parked_ops = parked_relay.ops_address(PATIENCE).await;

    eventually("progress to be watched", PATIENCE, async || {
        let progress = check(stuck_ops, "progress").await;
        (progress["ready"] == true).then_some(())
    })
    .await;
    let reason = reason_of_stall(stuck_ops).await;
    for part in ["event 1 of", "has waited for 3", &stuck.topic, "since 20"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    blocked.until("blocked", 1).await;
    assert_eq!(check(parked_ops, "progress").await["ready"], true);
    assert_eq!(check(parked_ops, "kafka").await["ready"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_which_partition_stands_in_the_way_why_and_since_when() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let relay = Spawned::start(
        BINARY,
        &["run"],
        with(&fixture, "KAFKA_BROKERS", &proxy.brokers()),
    );
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write(&["a"]).await;
    fixture.until_published(1).await;
    assert_eq!(check(ops, "progress").await["ready"], true);
    assert_eq!(check(ops, "kafka").await["ready"], true);
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    fixture.write(&["a"]).await;
    let reason = reason_of_stall(ops).await;
    let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
    assert_eq!(answer.status(), 503);
    let partition = partition_of(b"a", PARTITIONS);
    let place = format!("{}/{partition}", fixture.topic);
    for part in [
        &format!("event 2 of {place} has waited for 3"),
        &format!("{place}: kafka: "),
        ", since 20",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    proxy.set(&fixture.topic, None);
    until_ready(ops).await;
    assert_eq!(fixture.count("published").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_what_postgres_refuses_to_record_and_since_when() {
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write(&["a"]).await;
    fixture.until_published(1).await;
    let other = fixture.database.connect().await;
    // It can be read and not be written.
    let lock = "begin; lock table outbox_published in share mode";
    other.batch_execute(lock).await.unwrap();
    fixture.write(&["a"]).await;
    let reason = reason_of_stall(ops).await;
    for part in [
        "event 2 of",
        "has waited for 3",
        "recording published events: ",
        "timeout, since 20",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert_eq!(check(ops, "postgres").await["ready"], false);
    other.batch_execute("commit").await.unwrap();
    fixture.until_published(2).await;
    until_ready(ops).await;
    let (_, copies) = fixture.published_by_key().await;
    assert_eq!(copies, 0, "Kafka had it all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_what_postgres_refuses_to_hold_and_since_when() {
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let other = fixture.database.connect().await;
    let lock = "begin; lock table outbox_held in share mode";
    other.batch_execute(lock).await.unwrap();
    // Larger than a topic takes.
    fixture.write_sized(&[("a", 1_200_000)]).await;
    let reason = reason_of_stall(ops).await;
    for part in ["event 1 of", "holding events: ", "timeout, since 20"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    other.batch_execute("commit").await.unwrap();
    fixture.until("dead", 1).await;
    until_ready(ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_relay_is_not_ready_for_as_long_as_postgres_is_away() {
    let own = OwnPostgres::start().await;
    let fixture = Fixture::in_database(own.database().await).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    until_ready(ops).await;
    own.stop().await;
    eventually("it to notice", PATIENCE, async || {
        (check(ops, "postgres").await["ready"] == false).then_some(())
    })
    .await;
    let noticed = Instant::now();
    // Its leases, of two seconds, run out meanwhile.
    while noticed.elapsed() < Duration::from_secs(6) {
        let postgres = check(ops, "postgres").await;
        assert_eq!(postgres["ready"], false, "{postgres}\n{}", relay.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    own.start_again().await;
    until_ready(ops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_what_is_old_and_done() {
    let fixture = Fixture::new().await;
    let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.write(&["a", "b", "c", "d", "e"]).await;
    fixture.until_published(5).await;
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0));
    fixture
        .sql
        .batch_execute(
            "update outbox_event set created_at = now() - interval '2 hours';
             update outbox_published set processed_at = now() - interval '2 hours' where id > 2;
             with moved as (delete from outbox_published where id = 5 returning id)
             insert into outbox_held (bytes, id, slot, topic, key, cause, discarded_at)
             select 10, m.id, hashtextextended(e.key, 0) & 31, e.topic, e.key, 'dead',
                    now() - interval '2 hours'
             from moved m join outbox_event e using (id)",
        )
        .await
        .unwrap();
    let variables = with(&fixture, "OUTBOX_RETENTION", "1h");
    let relay = Spawned::start(BINARY, &["run"], variables);
    let ops = relay.ops_address(PATIENCE).await;
    eventually("three events to be deleted", PATIENCE, async || {
        (metric(ops, "outbox_deleted_total").await == "3").then_some(())
    })
    .await;
    let left = "select string_agg(id || ':' || state, ' ' order by id) from outbox";
    let left: String = fixture.sql.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, "1:published 2:published");
}

#[tokio::test]
async fn a_retention_that_makes_no_sense_is_refused() {
    for value in ["1s", "3", "99999d"] {
        let wrong = vec![
            ("DATABASE_URL", "postgres://u:p@h/d".to_owned()),
            ("KAFKA_BROKERS", NOWHERE.to_owned()),
            ("OUTBOX_RETENTION", value.to_owned()),
        ];
        let mut relay = Spawned::start(BINARY, &[], wrong);
        assert_eq!(relay.exit_code(PATIENCE).await, Some(78), "{value}");
        assert!(relay.log().contains("OUTBOX_RETENTION"), "{}", relay.log());
    }
}
