//! Writers of a few keys, some of whose events the topic does not take, and what became of all of
//! them in the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::EventId;
use messaging::envelope;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use crate::support::{Fixture, assert_in_order};

const WRITERS: u64 = 4;
/// They write of `k0`, `k1` and so on.
pub(crate) const KEYS: usize = 6;
const TOO_LARGE: i32 = 1_100_000;

pub(crate) struct Writers {
    writing: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Each of them writes so many transactions.
    pub(crate) async fn start(fixture: &Arc<Fixture>, seed: u64, transactions: usize) -> Self {
        fixture
            .sql
            .batch_execute(&format!(
                "create table aggregate (key text primary key);
                 insert into aggregate select 'k' || n from generate_series(0, {KEYS} - 1) n"
            ))
            .await
            .unwrap();
        let writing = Arc::<AtomicUsize>::default();
        let tasks = (0..WRITERS)
            .map(|writer| {
                let (fixture, writing) = (Arc::clone(fixture), Arc::clone(&writing));
                writing.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    write(&fixture, seed.wrapping_add(writer), transactions).await;
                    writing.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        Self { writing, tasks }
    }

    pub(crate) fn are_writing(&self) -> bool {
        self.writing.load(Ordering::SeqCst) > 0
    }

    /// Waits for them. The writer of the large ones has seen to them then.
    pub(crate) async fn end(self, fixture: &Fixture) {
        for task in self.tasks {
            task.await.unwrap();
        }
        let shrink = "update outbox_event set payload = '{}'
                      where octet_length(payload::text) > 1000";
        fixture.sql.execute(shrink, &[]).await.unwrap();
    }
}

/// One writer: each transaction writes one to four events of one key, serialised by its aggregate.
async fn write(fixture: &Fixture, seed: u64, transactions: usize) {
    let mut sql = fixture.database.connect().await;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..transactions {
        let key = format!("k{}", random.random_range(0..KEYS));
        let transaction = sql.transaction().await.unwrap();
        transaction
            .execute("select from aggregate where key = $1 for update", &[&key])
            .await
            .unwrap();
        for _ in 0..random.random_range(1..5) {
            let size = if random.random_bool(0.04) {
                TOO_LARGE
            } else {
                1
            };
            transaction
                .execute(
                    "insert into outbox_event (event_id, topic, key, event_type, payload)
                     values (gen_random_uuid(), $1, $2, 'T', to_json(repeat('x', $3)))",
                    &[&fixture.topic, &key, &size],
                )
                .await
                .unwrap();
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
        transaction.commit().await.unwrap();
    }
}

/// Each event that was not given up is in Kafka where the outbox says, and first occurrences are
/// in the order of ids. One that was given up may be there too: it was in flight when it was held.
pub(crate) async fn assert_published_in_order(fixture: &Fixture, expected: i64) {
    let rows = fixture
        .sql
        .query(
            "select event_id::text, id, key, kafka_partition, kafka_offset from outbox",
            &[],
        )
        .await
        .unwrap();
    let mut by_key: HashMap<String, Vec<i64>> = HashMap::new();
    let mut known = HashMap::new();
    let mut places = HashMap::new();
    for row in &rows {
        let id: i64 = row.get(1);
        let event_id: EventId = row.get::<_, &str>(0).parse().unwrap();
        known.insert(event_id, (id, row.get::<_, String>(2)));
        if let Some(partition) = row.get::<_, Option<i32>>(3) {
            places.insert((partition, row.get::<_, i64>(4)), id);
        }
    }
    assert_eq!(i64::try_from(places.len()).unwrap(), expected);
    for (partition, records) in fixture.records().await {
        for record in records {
            let event_id = envelope::decode(&record).unwrap().event_id;
            let (id, key) = &known[&event_id];
            if let Some(recorded) = places.remove(&(partition, record.offset)) {
                assert_eq!(recorded, *id);
            }
            let ids = by_key.entry(key.clone()).or_default();
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
    }
    assert_eq!(
        places,
        HashMap::new(),
        "recorded as published, and not there"
    );
    assert_in_order(&by_key);
}
