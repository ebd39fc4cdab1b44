//! `offsets reset` as an operator uses it, beside a consumer that waits for it.

use std::time::Duration;

use local_stack::testing::eventually;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::ops::Ops;
use crate::servers::TOPIC;
use crate::support::{Fixture, PATIENCE, order};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_moves_one_partition_and_first_looks_where_to() {
    let fixture = Fixture::on_the_real_topic().await;
    fixture
        .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    let place = "select next_offset::text from inbox_offset
                 where topic = 'order.created' and partition = 0";
    let end: i64 = fixture.text(place).await.parse().unwrap();
    let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    let product = Uuid::now_v7().to_string();
    let first = fixture
        .produce(0, vec![order(&product, 1), order(&product, 1)])
        .await;
    // Others may have written since then, too.
    let since = [
        "offsets",
        "reset",
        "--topic",
        TOPIC,
        "--to",
        &time,
        "--partition",
        "0",
        "--dry-run",
    ];
    let would = fixture.told(&since).await;
    let found: i64 = would.split_whitespace().last().unwrap().parse().unwrap();
    assert!((end..=first).contains(&found), "{would}");
    let lost = "update inbox_offset set next_offset = 99999999999
                where topic = 'order.created' and partition = 0";
    fixture.sql.batch_execute(lost).await.unwrap();

    // Nothing is skipped: the partition waits for a decision, and says so.
    let consumer = fixture.start();
    let ops = Ops::of(&consumer).await;
    let reason = eventually("the place to be missed", PATIENCE, async || {
        let of = format!("{TOPIC}/0");
        ops.reason("kafka").await.filter(|r| r.contains(&of))
    })
    .await;
    for part in [
        &format!("{TOPIC}/0: offset 99999999999"),
        "`order-consumer offsets reset`",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    let to = (first + 1).to_string();
    let reset = [
        "offsets",
        "reset",
        "--topic",
        TOPIC,
        "--to",
        &to,
        "--partition",
        "0",
    ];
    let would = fixture.told(&[&reset[..], &["--dry-run"]].concat()).await;
    let words: Vec<&str> = would.split_whitespace().collect();
    let expected = [
        "TOPIC",
        "PARTITION",
        "BEFORE",
        "WOULD",
        "BE",
        TOPIC,
        "0",
        "99999999999",
        &to,
    ];
    assert_eq!(words, expected, "{would}");
    assert_eq!(fixture.text(place).await, "99999999999");
    let wrong = [
        "offsets",
        "reset",
        "--topic",
        TOPIC,
        "--to",
        &to,
        "--partition",
        "999",
    ];
    let wrong = fixture.refused(&wrong).await;
    assert!(wrong.contains("has no partition 999"), "{wrong}");

    let did = fixture.told(&reset).await;
    let words: Vec<&str> = did.split_whitespace().collect();
    let expected = [
        "TOPIC",
        "PARTITION",
        "BEFORE",
        "NOW",
        TOPIC,
        "0",
        "99999999999",
        &to,
    ];
    assert_eq!(words, expected, "{did}");
    ops.until_ready().await;
    fixture.until_sold(&product, 1).await;
    fixture.produce(0, vec![order(&product, 1)]).await;
    fixture.until_sold(&product, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_for_how_long_the_oldest_record_has_waited() {
    let fixture = Fixture::on_the_real_topic().await;
    fixture
        .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    fixture.produce(0, vec![order("P-1", 1)]).await;
    let waited = Duration::from_secs(2);
    // The time is the point.
    tokio::time::sleep(waited).await;
    let status = fixture.told(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let waits = status["partitions"][0]["lagSeconds"].as_f64().unwrap();
    let least = waited.as_secs_f64() - 0.5;
    assert!((least..PATIENCE.as_secs_f64()).contains(&waits), "{status}");
    let table = fixture.told(&["status"]).await;
    let heads = table.lines().nth(1).unwrap();
    assert!(heads.contains("LAG  OLDEST"), "{table}");
}
