//! The real executable, on the real topic. Other tests write there too: products tell them apart.

use std::time::Duration;

use domain::{EventType, OrderCreated};
use local_stack::testing::{Collector, Manners, Spawned, eventually};
use messaging::{OutgoingRecord, partition_of};
use order_consumer::handlers::registry;
use uuid::Uuid;

use crate::support::{Fixture, PATIENCE, order, until_led};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_order-consumer");

impl Fixture {
    pub(crate) async fn on_the_real_topic() -> Self {
        let mut fixture = Self::new().await;
        OrderCreated::TOPIC.clone_into(&mut fixture.topic);
        for topic in registry().topics() {
            fixture.cluster.ensure_topic(&topic, 6, 1).await.unwrap();
            until_led(&fixture.cluster, &topic).await;
        }
        fixture
    }

    /// Whoever came first decided on it.
    pub(crate) async fn partitions(&self) -> i32 {
        self.cluster.partition_counts().await.unwrap()[&self.topic]
    }

    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.test.url().to_owned()),
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_GROUP_ID", "the-group".to_owned()),
            ("LEASE_TTL", "2s".to_owned()),
            ("OPS_PORT", "0".to_owned()),
        ]
    }

    pub(crate) fn start(&self) -> Spawned {
        Spawned::start(BINARY, &["run"], self.variables())
    }

    /// Orders of one unit each, where their keys belong.
    pub(crate) async fn place(&self, product: &str, orders: usize) {
        let partitions = self.partitions().await;
        let mut by_partition = vec![Vec::new(); partitions.try_into().unwrap()];
        for _ in 0..orders {
            let record = order(product, 1);
            let partition = partition_of(&record.key, partitions);
            by_partition[usize::try_from(partition).unwrap()].push(record);
        }
        for (partition, records) in (0..).zip(by_partition) {
            if !records.is_empty() {
                self.produce(partition, records).await;
            }
        }
    }

    pub(crate) async fn until_sold(&self, product: &str, orders: i64) {
        eventually("the sales", PATIENCE, async || {
            let (sold, units) = self.sales(product).await;
            assert!(sold <= orders, "{sold} sold of {orders}");
            assert_eq!(sold, units);
            (sold == orders).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_status_0_and_hands_the_partitions_over() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut consumer = fixture.start();
    fixture.place(&product, 10).await;
    fixture.until_sold(&product, 10).await;
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
    let owned = "select count(*)::text from lease where owner is not null";
    assert_eq!(fixture.text(owned).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_sigterm_ends_it_in_time_also_while_a_batch_waits_for_a_lock() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut variables = fixture.variables();
    variables.retain(|(name, _)| *name != "LEASE_TTL");
    // Nothing of the session's own ends the wait.
    variables.push(("LEASE_TTL", "1m".to_owned()));
    let mut consumer = Spawned::start(BINARY, &["run"], variables);
    let other = fixture.test.connect().await;
    other
        .batch_execute("begin; lock table product_sales in share mode")
        .await
        .unwrap();
    fixture.place(&product, 10).await;
    let waiting = "select count(*)::text from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'
                       and query ilike '%product_sales%'";
    eventually("a batch to wait", PATIENCE, async || {
        (fixture.text(waiting).await != "0").then_some(())
    })
    .await;
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
    let owned = "select count(*)::text from lease where owner is not null";
    assert_eq!(fixture.text(owned).await, "0");
    other.batch_execute("commit").await.unwrap();
    let _successor = fixture.start();
    fixture.until_sold(&product, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_killed_again_and_again_each_effect_happens_once() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut placed = 0;
    for _ in 0..4 {
        let mut consumer = fixture.start();
        let before = fixture.sales(&product).await.0;
        for _ in 0..10 {
            fixture.place(&product, 60).await;
            placed += 60;
        }
        eventually("some to be sold", PATIENCE, async || {
            (fixture.sales(&product).await.0 > before).then_some(())
        })
        .await;
        consumer.kill();
        consumer.exit_code(PATIENCE).await;
    }
    let _consumer = fixture.start();
    fixture.until_sold(&product, placed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_two_share_the_partitions_and_one_may_go() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut first = fixture.start();
    let _second = fixture.start();
    let owners = "select count(distinct owner) || ' ' || count(owner) from lease
                  where scope = 'the-group/order.created'";
    let shared = format!("2 {}", fixture.partitions().await);
    eventually("both to own partitions", PATIENCE, async || {
        (fixture.text(owners).await == shared).then_some(())
    })
    .await;
    fixture.place(&product, 100).await;
    fixture.until_sold(&product, 100).await;
    first.terminate();
    fixture.place(&product, 100).await;
    assert_eq!(
        first.exit_code(Duration::from_secs(10)).await,
        Some(0),
        "{}",
        first.log()
    );
    fixture.until_sold(&product, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_logged_with_its_id_and_its_trace() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let trace = Uuid::now_v7().simple().to_string();
    let record = traced(order(&product, 1), &trace);
    let id = String::from_utf8(record.headers["ce_id"].clone()).unwrap();
    fixture.produce(0, vec![record.clone()]).await;
    fixture.produce(0, vec![record]).await;
    let consumer = fixture.start();
    fixture.until_sold(&product, 1).await;
    let line = eventually("the warning", PATIENCE, async || {
        let log = consumer.log();
        let warning = log
            .lines()
            .find(|l| l.contains("duplicate") && l.contains(&id))?;
        Some(warning.to_owned())
    })
    .await;
    assert!(line.contains("\"WARN\""), "{line}");
    assert!(line.contains(&trace), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_mute_collector_it_consumes_and_stops_in_time() {
    let collector = Collector::start(Manners::Mute).await;
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut variables = fixture.variables();
    variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()));
    let mut consumer = Spawned::start(BINARY, &["run"], variables);
    for sold in 1..=2 {
        let trace = Uuid::now_v7().simple().to_string();
        let record = traced(order(&product, 1), &trace);
        fixture.produce(0, vec![record]).await;
        fixture.until_sold(&product, sold).await;
        eventually("a request to the collector", PATIENCE, async || {
            (collector.requests() > 0).then_some(())
        })
        .await;
    }
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_logged_with_its_trace_and_a_malformed_one_is_no_matter() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let trace = Uuid::now_v7().simple().to_string();
    let mut broken = traced(order(&product, 1), &trace);
    broken.value = Some(b"{".to_vec());
    let malformed = |mut record: OutgoingRecord| {
        let name = "traceparent".to_owned();
        record.headers.insert(name, vec![0xff, b'-', b'-']);
        record
    };
    let mut odd = malformed(order(&product, 1));
    odd.value = Some(b"{".to_vec());
    let first = fixture.produce(0, vec![broken, odd]).await;
    let upper_case = traced(order(&product, 1), &trace.to_uppercase());
    let good = vec![malformed(order(&product, 1)), upper_case];
    fixture.produce(0, good).await;
    let consumer = fixture.start();
    fixture.until_sold(&product, 2).await;
    let line_of = async |offset: i64| {
        let place = format!("\"partition\":0,\"offset\":{offset},");
        eventually("the dead letter", PATIENCE, async || {
            let log = consumer.log();
            let mut lines = log.lines().filter(|line| line.contains("dead letter"));
            lines.find(|line| line.contains(&place)).map(str::to_owned)
        })
        .await
    };
    let line = line_of(first + 1).await;
    assert!(!line.contains("trace_id"), "{line}");
    let line = line_of(first).await;
    assert!(
        line.contains("\"ERROR\"") && line.contains(&trace),
        "{line}"
    );
}

/// The record of an event that belongs to a trace.
fn traced(mut record: OutgoingRecord, trace: &str) -> OutgoingRecord {
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    record
        .headers
        .insert("traceparent".to_owned(), parent.into_bytes());
    record
}

#[tokio::test]
async fn wrong_settings_are_all_named_and_end_it_with_status_78() {
    let wrong = vec![
        ("DATABASE_URL", "nonsense".to_owned()),
        ("OPS_PORT", "x".to_owned()),
    ];
    let mut consumer = Spawned::start(BINARY, &[], wrong);
    assert_eq!(consumer.exit_code(PATIENCE).await, Some(78));
    let log = consumer.log();
    for name in ["DATABASE_URL", "OPS_PORT", "KAFKA_BROKERS"] {
        assert!(log.contains(name), "{name} is missing in\n{log}");
    }
}

#[tokio::test]
async fn brokers_that_are_no_addresses_end_it_with_status_78_and_say_what_is_wrong() {
    for (brokers, reason) in [
        ("PLAINTEXT://127.0.0.1:9092", "leave out the scheme"),
        ("127.0.0.1:9092;127.0.0.1:9093", "separated by commas"),
        ("::1:9092", "must be in brackets"),
    ] {
        let settings = vec![
            ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d".to_owned()),
            ("KAFKA_BROKERS", brokers.to_owned()),
            ("OPS_PORT", "0".to_owned()),
        ];
        let mut consumer = Spawned::start(BINARY, &["run"], settings);
        let ended = consumer.exit_code(Duration::from_secs(10)).await;
        let log = consumer.log();
        assert_eq!(ended, Some(78), "{brokers}: {log}");
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("KAFKA_BROKERS"));
        assert!(line.is_some_and(|line| line.contains(reason)), "{log}");
    }
}

#[tokio::test]
async fn an_inbox_that_forgets_too_early_is_refused() {
    let settings = |inbox: &str, outbox: Option<&str>| {
        let mut settings = vec![
            ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d".to_owned()),
            ("KAFKA_BROKERS", "127.0.0.1:1".to_owned()),
            ("OPS_PORT", "0".to_owned()),
            ("INBOX_RETENTION", inbox.to_owned()),
        ];
        settings.extend(outbox.map(|outbox| ("OUTBOX_RETENTION", outbox.to_owned())));
        settings
    };
    let twice = "more than twice OUTBOX_RETENTION, which is ";
    for (inbox, outbox, reason) in [
        ("6d", None, &format!("{twice}259200 s")),
        ("48h", Some("1d"), &format!("{twice}86400 s")),
        ("1m", Some("1d"), &format!("{twice}86400 s")),
        // As long as a duration can be.
        ("14d", Some("18000000000000000000s"), &twice.to_owned()),
        ("36501d", None, &"at most 36500d".to_owned()),
    ] {
        let mut consumer = Spawned::start(BINARY, &["run"], settings(inbox, outbox));
        let ended = consumer.exit_code(PATIENCE).await;
        let log = consumer.log();
        assert_eq!(ended, Some(78), "{log}");
        let line = log.lines().find(|line| line.contains(reason.as_str()));
        assert!(line.is_some_and(|l| l.contains("INBOX_RETENTION")), "{log}");
    }
    let mut consumer = Spawned::start(BINARY, &["run"], settings("49h", Some("1d")));
    consumer.ops_address(PATIENCE).await;
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
}

#[tokio::test]
async fn asked_to_stop_while_nothing_is_there_it_stops() {
    let nowhere = vec![
        ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d".to_owned()),
        ("KAFKA_BROKERS", "127.0.0.1:1".to_owned()),
        ("OPS_PORT", "0".to_owned()),
    ];
    let mut consumer = Spawned::start(BINARY, &[], nowhere);
    consumer.ops_address(PATIENCE).await;
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(10)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
}
