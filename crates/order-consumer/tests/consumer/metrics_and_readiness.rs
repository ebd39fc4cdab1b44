//! What an operator sees of a running consumer: readiness and metrics.

use std::time::Duration;

use local_stack::testing::eventually;
use messaging::OutgoingRecord;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::java::Script;
use crate::ops::Ops;
use crate::servers::{Private, TOPIC};
use crate::support::{Fixture, next_of_key, order};

/// What the consumer takes for a stall, and some more on a busy machine.
const STALL_SECONDS: u64 = 30;
const STALL_PATIENCE: Duration = Duration::from_mins(2);

/// Waits for the stall of a partition to be told, and checks what is said of it: that it lasts, and
/// these parts.
async fn until_stalled(ops: Ops, parts: &[&str]) {
    let reason = eventually("the stall to be told", STALL_PATIENCE, async || {
        ops.reason("progress").await
    })
    .await;
    for part in parts {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    let (_, duration) = reason.split_once(" for ").unwrap();
    let (seconds, why) = duration.split_once(" s: ").unwrap();
    let seconds: u64 = seconds.parse().unwrap();
    assert!(seconds >= STALL_SECONDS, "{reason}");
    assert!(why.contains(", since 20"), "{reason}");
}

/// A record cannot be held where another one is held already. That is no outage, and no event is
/// to blame: the partition stands still until somebody decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_stands_still_makes_it_not_ready_until_an_operator_decides() {
    let fixture = Fixture::on_the_real_topic().await;
    let product = Uuid::now_v7().to_string();
    let mut broken = order(&product, 1);
    broken.value = Some(b"{".to_vec());
    let partition = fixture.partitions().await - 1;
    let offset = fixture.produce(partition, vec![broken]).await;
    let (of_partition, to) = (partition.to_string(), offset.to_string());
    let reset = [
        "offsets",
        "reset",
        "--topic",
        TOPIC,
        "--partition",
        &of_partition,
        "--to",
        &to,
    ];
    let (code, said) = fixture.command(&reset).await;
    assert_eq!(code, Some(0), "{said}");
    let held = format!(
        "insert into inbox_dead_letter (consumer_group, topic, partition, \"offset\", value, cause,
                                        reason)
         values ('the-group', '{TOPIC}', {partition}, {offset}, 'another', 'dead', 'of old')"
    );
    fixture.sql.batch_execute(&held).await.unwrap();

    let consumer = fixture.start();
    let ops = Ops::of(&consumer).await;
    ops.until_ready().await;
    let parts = [
        format!("{TOPIC}/{partition}: "),
        format!(", no progress from offset {offset} for "),
        format!("an unsettled dead letter has the position of offset {offset}"),
    ];
    until_stalled(ops, &parts.each_ref().map(String::as_str)).await;
    // The other partitions go on.
    fixture.produce(0, vec![order(&product, 1)]).await;
    fixture.until_sold(&product, 1).await;
    let place = format!("{TOPIC}/{partition}/{offset}");
    let (code, said) = fixture.command(&["dead-letters", "discard", &place]).await;
    assert_eq!(code, Some(0), "{said}");
    ops.until_ready().await;
    fixture.produce(partition, vec![order(&product, 1)]).await;
    fixture.until_sold(&product, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_another_producer_leaves_open_is_told_as_a_stall() {
    let private = Private::new().await;
    let consumer = private.start();
    let ops = Ops::of(&consumer).await;
    ops.until_ready().await;
    let script = Script::default()
        .line("producer none left-open")
        .line("begin")
        .send_whole((TOPIC, 1), &order("P-1", 1));
    let brokers = private.brokers.clone();
    let client = tokio::task::spawn_blocking(move || script.begin(&brokers));
    let client = client.await.unwrap();
    ops.until("inbox_lag{partition=\"1\"}", 1.0).await;
    let parts = [
        &format!("{TOPIC}/1: lag 1, no progress from offset 0 for "),
        "a transaction of another producer is open there",
    ];
    until_stalled(ops, &parts).await;
    let age = ops.metric("inbox_lag_seconds{partition=\"1\"}").await;
    assert!(age.unwrap() >= 30.0, "{age:?}");
    private.produce(0, vec![order("P-1", 1)]).await;
    private.until_sold(1).await;
    let commit = Script::default().line("commit");
    tokio::task::spawn_blocking(move || client.finish(&commit))
        .await
        .unwrap();
    private.until_sold(2).await;
    ops.until_ready().await;
    ops.until("inbox_lag{partition=\"1\"}", 0.0).await;
}

fn created_before(mut record: OutgoingRecord, age: Duration) -> OutgoingRecord {
    let time = (OffsetDateTime::now_utc() - age).format(&Rfc3339).unwrap();
    let name = "ce_time".to_owned();
    record.headers.insert(name, time.into_bytes());
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_exist_at_zero_and_tell_what_was_consumed() {
    let private = Private::new().await;
    let consumer = private.start();
    let ops = Ops::of(&consumer).await;
    ops.until("inbox_partitions_owned", 2.0).await;
    for partition in 0..2 {
        ops.until(&format!("inbox_lag{{partition=\"{partition}\"}}"), 0.0)
            .await;
    }
    for series in [
        "inbox_consumed_total",
        "inbox_duplicates_total",
        "inbox_dead_total",
        "inbox_blocked_total",
        "inbox_retries_total",
        "inbox_fenced_total",
        "inbox_cleaned_total",
        "inbox_lag_seconds{partition=\"0\"}",
        "inbox_lag_seconds{partition=\"1\"}",
        "inbox_batch_records_count",
        "inbox_batch_records_sum",
        "inbox_batch_seconds_count",
        "inbox_batch_seconds_sum",
        "inbox_event_seconds_count",
        "inbox_event_seconds_sum",
    ] {
        assert_eq!(ops.metric(series).await, Some(0.0), "{series}");
    }

    // Good ones, one of them old; then a copy of it.
    let old = created_before(order("P-1", 1), Duration::from_secs(1_000));
    let young = (0..4).map(|_| order("P-1", 1));
    let good: Vec<_> = [old.clone()].into_iter().chain(young).collect();
    private.produce(0, good).await;
    ops.until("inbox_consumed_total", 5.0).await;
    private.produce(1, vec![old]).await;
    ops.until("inbox_duplicates_total", 1.0).await;
    // One that cannot be read, and one behind it; then one that the effect refuses.
    let mut broken = order("P-1", 1);
    broken.value = Some(b"{".to_vec());
    let behind = next_of_key(&broken, "P-1", 1);
    private.produce(0, vec![broken, behind]).await;
    ops.until("inbox_blocked_total", 1.0).await;
    assert_eq!(ops.metric("inbox_dead_total").await, Some(1.0));
    assert_eq!(ops.metric("inbox_retries_total").await, Some(0.0));
    let sql = private.sql().await.unwrap();
    let refuse = "alter table product_sales add check (product_id <> 'P-refused')";
    sql.batch_execute(refuse).await.unwrap();
    private.produce(1, vec![order("P-refused", 1)]).await;
    ops.until("inbox_dead_total", 2.0).await;
    assert_eq!(ops.metric("inbox_retries_total").await, Some(3.0));

    // While the effect is blocked there is lag, in one partition.
    let lock = "begin; lock table product_sales in access exclusive mode";
    sql.batch_execute(lock).await.unwrap();
    let (lag, age) = (
        "inbox_lag{partition=\"0\"}",
        "inbox_lag_seconds{partition=\"0\"}",
    );
    private.produce(0, vec![order("P-1", 1)]).await;
    ops.until(lag, 1.0).await;
    let more = (0..3).map(|_| order("P-1", 1)).collect();
    private.produce(0, more).await;
    ops.until(lag, 4.0).await;
    let grown = eventually("the lag to grow old", STALL_PATIENCE, async || {
        ops.metric(age).await.filter(|age| *age >= 3.0)
    })
    .await;
    assert!(grown < 60.0, "{grown}");
    assert_eq!(ops.metric("inbox_lag{partition=\"1\"}").await, Some(0.0));
    let reason = eventually("the lock to be told", STALL_PATIENCE, async || {
        ops.reason("postgres").await
    })
    .await;
    let of = format!("{TOPIC}/0: postgres: ");
    assert!(reason.contains(&of), "{reason}");
    sql.batch_execute("rollback").await.unwrap();
    ops.until("inbox_consumed_total", 9.0).await;
    ops.until(lag, 0.0).await;
    assert_eq!(ops.metric(age).await, Some(0.0));
    ops.until_ready().await;

    // Each record once, in as many batches as transactions were measured.
    assert_eq!(ops.metric("inbox_batch_records_sum").await, Some(13.0));
    let batches = ops.metric("inbox_batch_records_count").await;
    assert_eq!(ops.metric("inbox_batch_seconds_count").await, batches);
    let seconds = ops.metric("inbox_batch_seconds_sum").await.unwrap();
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    // From `ce_time` on: the old one took long, its copy has no effect.
    assert_eq!(ops.metric("inbox_event_seconds_count").await, Some(9.0));
    let took = ops.metric("inbox_event_seconds_sum").await.unwrap();
    assert!((1_000.0..1_200.0).contains(&took), "{took}");
}
