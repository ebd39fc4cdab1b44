//! Writers that do not stop while something fails, and how soon the relay works again after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use local_stack::testing::eventually;
use tokio::task::JoinHandle;

use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

/// Events come this often, [`AT_ONCE`] in a transaction unless a test says otherwise.
const PACE: Duration = Duration::from_millis(20);
const AT_ONCE: i32 = 10;
/// So many that each partition and each slot has some.
const KEYS: i64 = 149;

/// Somebody who writes events all the time.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<i64>,
}

impl Load {
    pub(crate) async fn start(fixture: &Fixture) -> Self {
        Self::of(fixture, AT_ONCE).await
    }

    /// Writes `at_once` events in a transaction.
    pub(crate) async fn of(fixture: &Fixture, at_once: i32) -> Self {
        let sql = fixture.database.connect().await;
        let topic = fixture.topic.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writing = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            let mut written = 0;
            while !stopped.load(Ordering::SeqCst) {
                pace.tick().await;
                sql.execute(
                    "insert into outbox_event (event_id, topic, key, event_type, payload)
                     select gen_random_uuid(), $1, 'k' || ($2::bigint + n) % $3::bigint, 'T', '{}'
                     from generate_series(1, $4::int) n",
                    &[&topic, &written, &KEYS, &at_once],
                )
                .await
                .unwrap();
                written += i64::from(at_once);
            }
            written
        });
        Self { stop, writing }
    }

    /// How many events it wrote.
    pub(crate) async fn end(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.writing.await.unwrap()
    }
}

impl Fixture {
    /// Waits until each partition has events that are recorded as published after now, and says how
    /// long that took.
    pub(crate) async fn until_at_work(&self) -> Duration {
        let now = "select clock_timestamp()::text";
        let now: String = self.sql.query_one(now, &[]).await.unwrap().get(0);
        let partitions = i64::from(PARTITIONS);
        let took = "select count(distinct kafka_partition),
                        extract(epoch from clock_timestamp() - $1::text::timestamptz)::float8
                    from outbox_published where processed_at > $1::text::timestamptz";
        eventually("all partitions to be written", PATIENCE * 2, async || {
            let row = self.sql.query_one(took, &[&now]).await.unwrap();
            let all = row.get::<_, i64>(0) >= partitions;
            all.then(|| Duration::from_secs_f64(row.get(1)))
        })
        .await
    }

    /// Waits until some more events are published.
    pub(crate) async fn until_more_are_published(&self, events: i64) {
        let before = self.count("published").await;
        eventually("more to be published", PATIENCE, async || {
            (self.count("published").await >= before + events).then_some(())
        })
        .await;
    }

    /// The load is over and the relay gets everything out: nothing is lost, nothing is held, first
    /// occurrences are in order. Returns how many records are copies.
    pub(crate) async fn assert_all_arrive_in_order(&self, load: Load) -> usize {
        load.end().await;
        let written = "select count(*) from outbox_event where topic = $1";
        let written = self.sql.query_one(written, &[&self.topic]).await.unwrap();
        let written: i64 = written.get(0);
        self.until_published(written).await;
        let (by_key, copies) = self.published_by_key().await;
        let first_occurrences: usize = by_key.values().map(Vec::len).sum();
        assert_eq!(i64::try_from(first_occurrences).unwrap(), written);
        assert_in_order(&by_key);
        copies
    }
}
