//! What a batch costs beside the bare insert of its inbox rows: a measurement, not a test.
//!
//! `cargo test --release -p order-consumer --test consumer speed -- --ignored --nocapture`

use std::time::Instant;

use order_consumer::apply::decode::{Decoded, decode};
use order_consumer::apply::transaction::{Attempt, Batch, Fence, Outcome, apply};
use storage::Session;
use storage::inbox::Stream;

use crate::servers::TOPIC;
use crate::support::{Fixture, GROUP, order};

const BATCHES: usize = 40;
const RECORDS: usize = 1_000;
const ROUNDS: usize = 5;

fn batch(padding: usize, from: i64) -> Vec<Decoded> {
    (from..)
        .take(RECORDS)
        .map(|offset| {
            let product = format!("P-{}", offset % 50);
            let mut record = order(&product, 1);
            let mut value = record.value.take().unwrap();
            value.pop();
            let padding = format!(r#","padding":"{}"}}"#, "x".repeat(padding));
            value.extend(padding.bytes());
            let record = messaging::IncomingRecord {
                offset,
                timestamp: time::OffsetDateTime::now_utc(),
                key: Some(record.key),
                value: Some(value),
                headers: record.headers,
                odd_headers: Vec::new(),
                omitted_bytes: None,
            };
            decode(&order_consumer::handlers::registry(), TOPIC, record)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_a_batch_beside_the_bare_insert() {
    let fixture = Fixture::new().await;
    let (mut keeper, leases) = fixture.owner().await;
    let stream = Stream {
        group: GROUP.to_owned(),
        topic: fixture.topic.clone(),
        partition: 0,
    };
    let session = Session::long_running("test");
    let mut inbox = fixture.inbox(session);
    inbox.begin_at(&stream, 0, None).await.unwrap();
    let bare = fixture
        .sql
        .prepare(
            "insert into inbox (consumer_group, event_id, topic, partition, \"offset\")
             select 'bare', n.id, 't', 0, n.at from unnest($1::uuid[], $2::bigint[]) n(id, at)",
        )
        .await
        .unwrap();
    let per_round = i64::try_from(BATCHES * RECORDS).unwrap();
    let mut from = 0;
    for padding in [0, 900] {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            keeper.beat().await.unwrap();
            let step = i64::try_from(RECORDS).unwrap();
            let batches: Vec<Vec<Decoded>> = (from..from + per_round)
                .step_by(RECORDS)
                .map(|from| batch(padding, from))
                .collect();
            let started = Instant::now();
            for records in &batches {
                let ids: Vec<uuid::Uuid> = records
                    .iter()
                    .map(|d| d.event_id.unwrap().as_uuid())
                    .collect();
                let offsets: Vec<i64> = records.iter().map(|d| d.record.offset).collect();
                let inserted = fixture.sql.execute(&bare, &[&ids, &offsets]).await.unwrap();
                assert_eq!(inserted, RECORDS as u64);
            }
            let bare_seconds = started.elapsed().as_secs_f64();
            let started = Instant::now();
            for records in &batches {
                let fence = Fence {
                    owner: leases.member(),
                    epoch: leases.epoch(0).expect("owned"),
                    expected_offset: from,
                    topic_id: None,
                };
                from += step;
                let batch = Batch {
                    records,
                    next_offset: from,
                };
                let applied = apply(&mut *inbox, &stream, fence, &batch, Attempt::WholeBatch);
                let Outcome::Applied(applied) = applied.await.unwrap() else {
                    panic!("the partition is ours")
                };
                assert_eq!(applied.new, RECORDS);
            }
            let seconds = started.elapsed().as_secs_f64();
            let events = f64::from(u32::try_from(BATCHES * RECORDS).unwrap());
            println!(
                "padding {padding}: bare {:.0}/s, applied {:.0}/s, ratio {:.2}",
                events / bare_seconds,
                events / seconds,
                bare_seconds / seconds
            );
            ratios.push(bare_seconds / seconds);
        }
        ratios.sort_by(f64::total_cmp);
        println!("padding {padding}: median ratio {:.2}", ratios[ROUNDS / 2]);
    }
}
