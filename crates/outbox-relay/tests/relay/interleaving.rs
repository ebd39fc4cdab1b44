//! Random writers against the relay: late commits, savepoints, roll-backs and two-phase commits,
//! with batches so small that every boundary is met; and against relays that stand still at random
//! moments, also in the middle of sending and settling, for longer than their leases last or less.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use local_stack::testing::TestDatabase;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use crate::sharing::MOST_IN_FLIGHT;
use crate::support::{Fixture, PATIENCE, assert_in_order};

const WRITERS: u64 = 6;
const TRANSACTIONS: usize = 40;
const KEYS: usize = 7;

/// One writer: transactions on one or two keys, each serialised by a lock on its aggregate, as any
/// writer that cares for order does. Returns how many events it committed.
async fn write(database: &TestDatabase, topic: &str, seed: u64, transactions: usize) -> usize {
    let mut sql = database.connect().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut committed = 0;
    for number in 0..transactions {
        let mut keys = vec![random.random_range(0..KEYS), random.random_range(0..KEYS)];
        keys.sort_unstable();
        keys.dedup();
        let transaction = sql.transaction().await.unwrap();
        let mut events = 0;
        for key in &keys {
            let key = format!("k{key}");
            transaction
                .execute("select from aggregate where key = $1 for update", &[&key])
                .await
                .unwrap();
            let insert = "insert into outbox_event (event_id, topic, key, event_type, payload)
                          select gen_random_uuid(), $1, $2, 'T', '{}' from generate_series(1, $3)";
            for _ in 0..random.random_range(1..3) {
                let count: i32 = random.random_range(1..4);
                let undone = random.random_bool(0.3);
                transaction.batch_execute("savepoint s").await.unwrap();
                transaction
                    .execute(insert, &[&topic, &key, &count])
                    .await
                    .unwrap();
                if undone {
                    transaction.batch_execute("rollback to s").await.unwrap();
                } else {
                    events += usize::try_from(count).unwrap();
                }
            }
        }
        // Ids are drawn by now; the later the commit, the more of higher ids are out already.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..25))).await;
        match random.random_range(0..10) {
            0..2 => transaction.rollback().await.unwrap(),
            2..4 => {
                let name = format!("{topic}-{seed}-{number}");
                let prepare = format!("prepare transaction '{name}'");
                transaction.batch_execute(&prepare).await.unwrap();
                // Its end is an error for the client's own idea of a transaction, and harmless.
                let _ = transaction.commit().await;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
                let commit = format!("commit prepared '{name}'");
                sql.batch_execute(&commit).await.unwrap();
                committed += events;
            }
            _ => {
                transaction.commit().await.unwrap();
                committed += events;
            }
        }
    }
    committed
}

/// Writers at work.
struct Writers {
    running: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<usize>>,
}

impl Writers {
    async fn start(fixture: &Arc<Fixture>, seed: u64, transactions: usize) -> Self {
        fixture
            .sql
            .batch_execute(&format!(
                "create table aggregate (key text primary key);
                 insert into aggregate select 'k' || n from generate_series(0, {KEYS} - 1) n"
            ))
            .await
            .unwrap();
        let running = Arc::new(AtomicUsize::new(usize::try_from(WRITERS).unwrap()));
        let start = |writer| {
            let (fixture, running) = (Arc::clone(fixture), Arc::clone(&running));
            tokio::spawn(async move {
                let (database, topic) = (&fixture.database, &fixture.topic);
                let committed = write(database, topic, seed + writer, transactions).await;
                running.fetch_sub(1, Ordering::SeqCst);
                committed
            })
        };
        let tasks = (0..WRITERS).map(start).collect();
        Self { running, tasks }
    }

    fn are_writing(&self) -> bool {
        self.running.load(Ordering::SeqCst) > 0
    }

    /// What they committed has arrived once, in order; returns how many records are copies.
    async fn assert_arrived_in_order(self, fixture: &Fixture) -> usize {
        let mut committed = 0;
        for writer in self.tasks {
            committed += writer.await.unwrap();
        }
        fixture
            .until_published(i64::try_from(committed).unwrap())
            .await;
        let (by_key, copies) = fixture.published_by_key().await;
        assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), committed);
        assert_in_order(&by_key);
        copies
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p2_p3_random_writers_lose_nothing_double_nothing_and_keep_order() {
    let fixture = Arc::new(Fixture::new().await);
    let seed = rand::random::<u64>() / 2;
    println!("seed {seed}");
    let writers = Writers::start(&fixture, seed, TRANSACTIONS).await;

    let mut stepped = fixture.relay(2);
    let relaying = async {
        loop {
            let writing = writers.are_writing();
            stepped.relay.step().await.unwrap();
            if !writing
                && stepped.metrics.in_flight.get() == 0
                && fixture.count("pending").await == 0
            {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE * 2, relaying)
        .await
        .expect("the relay catches up");

    assert_eq!(writers.assert_arrived_in_order(&fixture).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p2_p3_p4_random_writers_and_relays_that_stand_still_at_random_keep_order() {
    let fixture = Arc::new(Fixture::new().await);
    let seed = rand::random::<u64>() / 2;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // The shortest leases there are.
    let relays = [fixture.start_relay("1s"), fixture.start_relay("1s")];
    fixture.until_shared_by(2).await;
    let writers = Writers::start(&fixture, seed, TRANSACTIONS * 5).await;
    let mut pauses = 0;
    while writers.are_writing() {
        let relay = &relays[random.random_range(0..2)];
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        relay.pause();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        relay.resume();
        pauses += 1;
    }
    let copies = writers.assert_arrived_in_order(&fixture).await;
    println!("{copies} copies after {pauses} pauses");
    assert!(copies <= pauses * MOST_IN_FLIGHT, "{copies}");
}
