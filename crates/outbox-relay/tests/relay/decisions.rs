//! Re-drives, discards and replays at random moments, while writers write and the relay works.
//!
//! Events die in two ways: some are larger than the topic takes, and some are held by this test in
//! the way a relay holds them, also while they are in flight.

use std::sync::Arc;
use std::time::Duration;

use outbox_relay::Step;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use storage::outbox::{ReplayBounds, TopicKey, dead_keys, discard, redrive, replay, verify};
use storage::{Connection, Database, Session, StorageError};
use tokio_postgres::Client;

use crate::support::{Fixture, PATIENCE};
use crate::writers::{KEYS, Writers, assert_published_in_order};

/// Holds some pending event of a key as dead, under the lock that such decisions take.
async fn hold_one(sql: &mut Client, topic: &str, key: &str) {
    let transaction = sql.transaction().await.unwrap();
    let lock = "select pg_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 7))";
    transaction.execute(lock, &[&topic, &key]).await.unwrap();
    transaction
        .execute(
            "with chosen as (
                 select e.id from outbox_pending p join outbox_event e using (id)
                 where e.topic = $1 and e.key = $2 order by random() limit 1),
             moved as (delete from outbox_pending p using chosen c where p.id = c.id
                       returning p.slot, p.id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, id, slot, $1, $2, 'dead' from moved",
            &[&topic, &key],
        )
        .await
        .unwrap();
    transaction.commit().await.unwrap();
}

/// What an operator got done.
#[derive(Debug, Default)]
struct Done {
    redriven: i64,
    discarded: i64,
    replayed: i64,
}

impl Done {
    fn has_each(&self) -> bool {
        self.redriven > 0 && self.discarded > 0 && self.replayed > 0
    }
}

struct Operator<'a> {
    fixture: &'a Fixture,
    conn: Connection,
    sql: Client,
    random: StdRng,
    done: Done,
}

impl Operator<'_> {
    async fn act(&mut self) -> Result<(), StorageError> {
        let of = TopicKey {
            topic: self.fixture.topic.clone(),
            key: format!("k{}", self.random.random_range(0..KEYS)),
        };
        let conn = &mut self.conn;
        match self.random.random_range(0..22) {
            0..8 => hold_one(&mut self.sql, &of.topic, &of.key).await,
            8..12 => {
                let redriven = redrive(conn, &[of]).await?;
                self.done.redriven += redriven.dead + redriven.blocked;
            }
            12 => self.redrive_all().await?,
            13..15 => {
                let dead = "select id from outbox_held where cause = 'dead' and key = $1
                            and discarded_at is null order by random() limit 1";
                let dead = self.sql.query_opt(dead, &[&of.key]).await.unwrap();
                let only = dead.map_or(-1, |row| row.get(0));
                self.done.discarded += discard(conn, &[of], Some(only)).await?.discarded;
            }
            15 => self.done.discarded += discard(conn, &[of], None).await?.discarded,
            16..18 => {
                let bounds = ReplayBounds {
                    key: Some(of.key),
                    ..ReplayBounds::default()
                };
                self.done.replayed += replay(conn, &bounds, None, 5).await?.matching;
            }
            18 => {
                let from = self.random.random_range(0..200);
                let bounds = ReplayBounds::default();
                self.done.replayed += replay(conn, &bounds, Some(from), 10).await?.matching;
            }
            // At no moment is an event in none or two of the three, or blocked behind nothing.
            _ => assert_eq!(verify(conn, 10).await?.offenders, []),
        }
        Ok(())
    }

    async fn redrive_all(&mut self) -> Result<(), StorageError> {
        for key in dead_keys(&mut self.conn, None, 100).await? {
            let redriven = redrive(&mut self.conn, &[key]).await?;
            self.done.redriven += redriven.dead + redriven.blocked;
        }
        Ok(())
    }

    /// Acts until nobody writes any more and each kind of decision has moved something.
    async fn run(mut self, writers: &Writers) -> Self {
        while writers.are_writing() || !self.done.has_each() {
            if let Err(error) = self.act().await {
                // The relay held the key's lock for too long; that is no error of order.
                assert!(error.to_string().contains("lock timeout"), "{error}");
            }
            let pause = self.random.random_range(0..30);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p3_p8_decisions_at_any_moment_lose_nothing_and_keep_order() {
    let fixture = Arc::new(Fixture::new().await);
    let seed = rand::random();
    println!("seed {seed}");
    let writers = Writers::start(&fixture, seed, 40).await;
    let database: Database = fixture.database.url().parse().unwrap();
    let session = Session::long_running("test").with_index_plans();
    let operator = Operator {
        fixture: &fixture,
        conn: database.connect(&session).await.unwrap(),
        sql: fixture.database.connect().await,
        random: StdRng::seed_from_u64(!seed),
        done: Done::default(),
    };

    let mut stepped = fixture.relay(3);
    let acting = operator.run(&writers);
    let relaying = async {
        loop {
            stepped.relay.step().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let acting = async {
        tokio::select! {
            operator = acting => operator,
            () = relaying => unreachable!("it relays for as long as the operator acts"),
        }
    };
    let acting = Box::pin(tokio::time::timeout(PATIENCE * 2, acting));
    let mut operator = acting
        .await
        .expect("the writers end, and decisions find something");
    writers.end(&fixture).await;

    let ending = async {
        let open =
            "select (select count(*) from outbox_pending) + (select count(*) from outbox_held
                    where discarded_at is null)";
        loop {
            let step = stepped.relay.step().await.unwrap();
            if step == Step::Idle && stepped.metrics.in_flight.get() == 0 {
                operator.redrive_all().await.unwrap();
                let open = fixture.number(open).await;
                if open == 0 {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE * 2, ending)
        .await
        .expect("nothing stays behind");

    println!(
        "{:?}, dead by the relay {}",
        operator.done,
        stepped.metrics.holds.dead.get()
    );
    let discarded = operator.done.discarded;
    assert!(stepped.metrics.holds.dead.get() > 0, "by the relay, too");
    let verified = verify(&mut operator.conn, 10).await.unwrap();
    assert_eq!(verified.offenders, []);
    assert_published_in_order(&fixture, verified.events - discarded).await;
}
