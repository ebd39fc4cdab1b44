//! The real executable.

use std::time::Duration;

use local_stack::testing::{Collector, Manners, Spawned, eventually};

use crate::support::{Fixture, PATIENCE, assert_in_order};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_outbox-relay");

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_status_0_and_hands_the_slots_over() {
    let fixture = Fixture::new().await;
    let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.write(&["a", "b", "c"]).await;
    fixture.until_published(3).await;
    relay.terminate();
    assert_eq!(
        relay.exit_code(Duration::from_secs(10)).await,
        Some(0),
        "{}",
        relay.log()
    );
    let owned = "select count(*) from lease where owner is not null";
    let owned = fixture.number(owned).await;
    assert_eq!(owned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_killed_under_load_it_loses_nothing_and_keeps_order() {
    let fixture = Fixture::new().await;
    let keys: Vec<String> = (0..500).map(|n| format!("k{}", n % 23)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let (mut total, mut at_most) = (0, 0);
    for _ in 0..4 {
        let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
        for _ in 0..4 {
            fixture.write(&keys).await;
            total += 500;
        }
        let before = fixture.count("published").await;
        eventually("some to be published", PATIENCE, async || {
            (fixture.count("published").await > before).then_some(())
        })
        .await;
        relay.kill();
        assert_eq!(relay.exit_code(PATIENCE).await, None, "ended by the signal");
        at_most += total - before;
    }
    let mut relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until_published(total).await;
    relay.terminate();
    assert_eq!(relay.exit_code(Duration::from_secs(10)).await, Some(0));
    let (by_key, copies) = fixture.published_by_key().await;
    let first_occurrences: usize = by_key.values().map(Vec::len).sum();
    assert_eq!(i64::try_from(first_occurrences).unwrap(), total);
    assert_in_order(&by_key);
    // At most what was in flight at each of four kills.
    assert!(i64::try_from(copies).unwrap() <= at_most, "{copies} copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_the_schema_and_says_so() {
    let fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    variables[0].1 = format!("{}?schema=later", fixture.database.url());
    let mut relay = Spawned::start(BINARY, &[], variables.clone());
    let ops = relay.ops_address(PATIENCE).await;
    let report = eventually("the reason", PATIENCE, async || {
        let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        assert_eq!(answer.status(), 503);
        let text = answer.text().await.unwrap();
        text.contains("order-api migrate").then_some(text)
    })
    .await;
    assert!(report.contains("\"schema\""), "{report}");
    let live = reqwest::get(format!("http://{ops}/livez")).await.unwrap();
    assert_eq!(live.status(), 200);

    let database: storage::Database = variables[0].1.parse().unwrap();
    storage::migrations::migrate(&database).await.unwrap();
    eventually("readiness", PATIENCE, async || {
        let answer = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
        answer.status().is_success().then_some(())
    })
    .await;
    relay.terminate();
    assert_eq!(relay.exit_code(Duration::from_secs(10)).await, Some(0));
}

impl Fixture {
    /// An event of a trace, or of none.
    async fn write_traced(&self, key: &str, bytes: i32, trace: Option<&str>) {
        let parent = trace.map(|trace| format!("00-{trace}-00f067aa0ba902b7-01"));
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload, headers)
                 values (gen_random_uuid(), $1, $2, 'T', to_json(repeat('x', $3)),
                         jsonb_strip_nulls(jsonb_build_object('traceparent', $4::text)))",
                &[&self.topic, &key, &bytes, &parent],
            )
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_mute_collector_it_publishes_and_stops_in_time() {
    let collector = Collector::start(Manners::Mute).await;
    let fixture = Fixture::new().await;
    let mut variables = fixture.variables();
    variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()));
    let mut relay = Spawned::start(BINARY, &["run"], variables);
    for published in 1..=2 {
        let trace = format!("{published:032x}");
        fixture.write_traced("a", 1, Some(&trace)).await;
        fixture.until_published(published).await;
        eventually("a request to the collector", PATIENCE, async || {
            (collector.requests() > 0).then_some(())
        })
        .await;
    }
    relay.terminate();
    let ended = relay.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_logged_with_its_trace() {
    const TOO_LARGE: i32 = 1_200_000;
    let mut fixture = Fixture::new().await;
    let traces = ["a", "b"].map(|digit| digit.repeat(32));
    fixture
        .write_traced("large", TOO_LARGE, Some(&traces[0]))
        .await;
    fixture.write_traced("untraced", TOO_LARGE, None).await;
    fixture.topic = "no such: topic!".to_owned();
    fixture.write_traced("nowhere", 1, Some(&traces[1])).await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    fixture.until("dead", 3).await;
    let log = relay.log();
    let line_of = |key: &str| {
        let key = format!("\"key\":\"{key}\"");
        let mut lines = log.lines().filter(|line| line.contains("dead letter"));
        let line = lines.find(|line| line.contains(&key));
        line.unwrap_or_else(|| panic!("{key} in\n{log}"))
    };
    for (key, trace) in [("large", &traces[0]), ("nowhere", &traces[1])] {
        let line = line_of(key);
        assert!(line.contains("\"ERROR\""), "{line}");
        assert!(
            line.contains(&format!("\"trace_id\":\"{trace}\"")),
            "{line}"
        );
    }
    assert!(!line_of("untraced").contains("trace_id"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_while_nothing_is_there_it_stops() {
    let nowhere = vec![
        ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d".to_owned()),
        ("KAFKA_BROKERS", "127.0.0.1:1".to_owned()),
        ("OPS_PORT", "0".to_owned()),
    ];
    let mut relay = Spawned::start(BINARY, &[], nowhere);
    relay.ops_address(PATIENCE).await;
    relay.terminate();
    assert_eq!(
        relay.exit_code(Duration::from_secs(10)).await,
        Some(0),
        "{}",
        relay.log()
    );
}

#[tokio::test]
async fn wrong_settings_are_all_named_and_end_it_with_status_78() {
    let wrong = vec![
        ("DATABASE_URL", "mysql://u:secret@h/d".to_owned()),
        ("KAFKA_BROKERS", "nowhere".to_owned()),
        ("LEASE_TTL", "10".to_owned()),
        ("KAFKA_TOPIC_PARTITIONS", "0".to_owned()),
        ("RELAY__BATCH_EVENTS_PER_SLOTS", "1".to_owned()),
    ];
    let mut relay = Spawned::start(BINARY, &[], wrong);
    assert_eq!(relay.exit_code(PATIENCE).await, Some(78));
    let log = relay.log();
    for name in [
        "DATABASE_URL",
        "KAFKA_BROKERS",
        "LEASE_TTL",
        "KAFKA_TOPIC_PARTITIONS",
        "RELAY__BATCH_EVENTS_PER_SLOTS",
    ] {
        assert!(log.contains(name), "{name} is missing in\n{log}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_database_it_must_not_work_on_it_ends_with_status_1() {
    let fixture = Fixture::new().await;
    fixture.write(&["a"]).await;
    fixture
        .sql
        .batch_execute("alter table outbox_event alter id restart")
        .await
        .unwrap();
    let mut relay = Spawned::start(BINARY, &[], fixture.variables());
    assert_eq!(relay.exit_code(PATIENCE).await, Some(1));
    assert!(relay.log().contains("setval"), "{}", relay.log());
}
