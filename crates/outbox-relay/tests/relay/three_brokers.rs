//! A Kafka of three brokers, each of which is killed and frozen in turn, while events are written
//! and consumed all the time.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local_stack::KafkaCluster;
use local_stack::testing::admin::{put_text, request};
use local_stack::testing::{Spawned, TestDatabase, eventually, unique_topic};
use messaging::Cluster;
use tokio::task::JoinHandle;

use crate::own_kafka::blocking;
use crate::process::BINARY;
use crate::progress::PAUSES_AT_MOST;
use crate::soak::alone;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

/// What the consumer consumes.
const TOPIC: &str = "order.created";
const METADATA: i16 = 3;
const REPLICAS: i16 = 3;
/// Longer than any pause may be: who only goes on when the broker is back is noticed.
const AWAY_FOR: Duration = Duration::from_secs(75);
/// Events a second, in transactions of a fifth of a second.
const RATE: i32 = 300;
const KEYS: i64 = 149;

/// Where a partition is, as a broker tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replicas {
    leader: i32,
    in_sync: usize,
}

/// What some broker says about the partitions of a topic; `None` without an answer.
async fn partitions(broker: &str, topic: &str) -> Option<BTreeMap<i32, Replicas>> {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, topic);
    let asked = tokio::spawn({
        let broker = broker.to_owned();
        async move { request(&broker, (METADATA, 1), &body).await }
    });
    // A broker that is away refuses or says nothing.
    let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
    let answer = answer.ok()?.ok()?;
    let mut rest = Answer(&answer[4..]);
    for _ in 0..rest.int32() {
        // A broker's id, host, port and rack.
        rest.int32();
        rest.text();
        rest.int32();
        rest.text();
    }
    // The controller, one topic, its error, name, and whether it is internal.
    rest.int32();
    assert_eq!(rest.int32(), 1);
    rest.int16();
    rest.text();
    rest.take(1);
    let mut partitions = BTreeMap::new();
    for _ in 0..rest.int32() {
        rest.int16();
        let partition = rest.int32();
        let leader = rest.int32();
        for _ in 0..rest.int32() {
            rest.int32();
        }
        let in_sync = rest.int32();
        for _ in 0..in_sync {
            rest.int32();
        }
        let in_sync = usize::try_from(in_sync).unwrap();
        partitions.insert(partition, Replicas { leader, in_sync });
    }
    Some(partitions)
}

/// What is left of an answer.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn int16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn int32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    /// Skips it.
    fn text(&mut self) {
        let length = self.int16();
        self.take(usize::try_from(length).unwrap_or(0));
    }
}

/// The consumer's executable, which belongs to another crate: `make build` puts it beside the
/// relay's.
fn consumer() -> PathBuf {
    let consumer = Path::new(BINARY).with_file_name("order-consumer");
    assert!(consumer.exists(), "build the whole workspace first");
    consumer
}

/// Orders that are written all the time.
struct Orders {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<i64>,
}

impl Orders {
    async fn start(fixture: &Fixture) -> Self {
        let sql = fixture.database.connect().await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writing = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(200));
            let mut written = 0;
            while !stopped.load(Ordering::SeqCst) {
                pace.tick().await;
                let at_once = RATE / 5;
                sql.execute(
                    "insert into outbox_event (event_id, topic, key, event_type, payload)
                     select gen_random_uuid(), $1, key, 'OrderCreated',
                            json_build_object('orderId', key, 'productId', 'p' || n % 10)
                     from generate_series(1, $4::int) n
                     cross join lateral (
                         select md5((($2::bigint + n) % $3::bigint)::text)::uuid::text as key) k",
                    &[&TOPIC, &written, &KEYS, &at_once],
                )
                .await
                .unwrap();
                written += i64::from(at_once);
            }
            written
        });
        Self { stop, writing }
    }

    async fn end(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.writing.await.unwrap()
    }
}

/// When each partition was last seen to move, and for how long it stood still at most.
struct Pace {
    counts: BTreeMap<i32, i64>,
    moved: BTreeMap<i32, Instant>,
    longest: BTreeMap<i32, Duration>,
}

impl Pace {
    fn new() -> Self {
        Self {
            counts: BTreeMap::new(),
            moved: (0..PARTITIONS).map(|p| (p, Instant::now())).collect(),
            longest: BTreeMap::new(),
        }
    }

    /// Counts by partition, now. Those that cannot move are not to blame for it.
    fn look(&mut self, counts: BTreeMap<i32, i64>, cannot: &HashSet<i32>) {
        let now = Instant::now();
        for (partition, moved) in &mut self.moved {
            if counts.get(partition) != self.counts.get(partition) || cannot.contains(partition) {
                *moved = now;
            }
            let longest = self.longest.entry(*partition).or_default();
            *longest = (now - *moved).max(*longest);
        }
        self.counts = counts;
    }

    fn longest(&self) -> Duration {
        self.longest.values().copied().max().unwrap_or_default()
    }
}

/// What happens to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Killed,
    Frozen,
}

struct System {
    fixture: Fixture,
    kafka: Arc<KafkaCluster>,
    relayed: Pace,
    consumed: Pace,
}

impl System {
    async fn counts(&self, query: &str) -> BTreeMap<i32, i64> {
        let rows = self.fixture.sql.query(query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Watches for this long, while a broker is `away`.
    async fn watch(&mut self, away: Option<usize>, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let cannot = self.without_a_live_leader(away).await;
            let relayed = "select kafka_partition, count(*) from outbox_published group by 1";
            let relayed = self.counts(relayed).await;
            self.relayed.look(relayed, &cannot);
            let consumed = "select partition, next_offset from inbox_offset";
            let consumed = self.counts(consumed).await;
            self.consumed.look(consumed, &cannot);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Partitions whose leader is the broker that is away, or none.
    async fn without_a_live_leader(&self, away: Option<usize>) -> HashSet<i32> {
        let Some(away) = away else {
            return HashSet::new();
        };
        let other = away % KafkaCluster::NODES + 1;
        let partitions = partitions(&self.kafka.broker(other), TOPIC).await;
        let away = i32::try_from(away).unwrap();
        let partitions = partitions.unwrap_or_default();
        (0..PARTITIONS)
            .filter(|partition| {
                let replicas = partitions.get(partition);
                replicas.is_none_or(|r| r.leader < 0 || r.leader == away)
            })
            .collect()
    }

    async fn until_in_sync(&self) {
        eventually("all replicas to be in sync", PAUSES_AT_MOST, async || {
            let mut all = partitions(&self.kafka.broker(1), TOPIC)
                .await?
                .into_values();
            all.all(|r| r.in_sync == KafkaCluster::NODES).then_some(())
        })
        .await;
    }

    async fn send_away(&self, broker: usize, how: Away) {
        let kafka = Arc::clone(&self.kafka);
        blocking(move || match how {
            Away::Killed => kafka.kill(broker).unwrap(),
            Away::Frozen => kafka.pause(broker),
        })
        .await;
    }

    async fn bring_back(&self, broker: usize, how: Away) {
        let kafka = Arc::clone(&self.kafka);
        blocking(move || match how {
            Away::Killed => kafka.start_again(broker).unwrap(),
            Away::Frozen => kafka.resume(broker),
        })
        .await;
    }
}

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn p1_p3_p5_p11_three_brokers_killed_and_frozen_in_turn_lose_nothing_and_stop_nobody() {
    let _alone = alone().await;
    let folder = std::env::temp_dir().join(unique_topic("three-brokers"));
    let kafka = Arc::new(blocking(move || KafkaCluster::start(&folder).unwrap()).await);
    let database = TestDatabase::create().await;
    let cluster = Cluster::new(kafka.brokers().parse().unwrap());
    eventually("the topic to be made", PATIENCE, async || {
        let made = cluster.ensure_topic(TOPIC, PARTITIONS, REPLICAS).await;
        made.is_ok().then_some(())
    })
    .await;
    let fixture = Fixture {
        topic: TOPIC.to_owned(),
        cluster,
        sql: database.connect().await,
        brokers: kafka.brokers(),
        database,
    };
    let mut variables = fixture.variables();
    variables.push(("KAFKA_REPLICATION_FACTOR", REPLICAS.to_string()));
    let mut relay = Spawned::start(BINARY, &["run"], variables.clone());
    let consumer = consumer();
    let mut consumer = Spawned::start(consumer.to_str().unwrap(), &[], variables);
    let mut system = System {
        fixture,
        kafka,
        relayed: Pace::new(),
        consumed: Pace::new(),
    };
    let orders = Orders::start(&system.fixture).await;
    system.fixture.until_more_are_published(500).await;
    for broker in 1..=KafkaCluster::NODES {
        for how in [Away::Killed, Away::Frozen] {
            system.until_in_sync().await;
            (system.relayed, system.consumed) = (Pace::new(), Pace::new());
            system.send_away(broker, how).await;
            system.watch(Some(broker), AWAY_FOR).await;
            system.bring_back(broker, how).await;
            system.watch(None, Duration::from_secs(10)).await;
            let pauses = [&system.relayed, &system.consumed].map(Pace::longest);
            println!("{how:?} {broker}: relay and consumer paused for {pauses:?}");
            for (pause, process) in pauses.iter().zip([&relay, &consumer]) {
                assert!(*pause < PAUSES_AT_MOST, "{pause:?}\n{}", process.log());
            }
        }
    }
    let written = orders.end().await;
    let fixture = &system.fixture;
    fixture.assert_progress(&[&relay, &consumer], &[]).await;
    fixture.until_published(written).await;
    let (by_key, copies) = fixture.published_by_key().await;
    println!("{written} events, {copies} copies");
    let published: usize = by_key.values().map(Vec::len).sum();
    assert_eq!(i64::try_from(published).unwrap(), written);
    assert_in_order(&by_key);
    eventually(
        "each order to have its effect",
        PAUSES_AT_MOST,
        async || {
            let effects = "select coalesce(sum(orders), 0)::bigint from product_sales";
            (fixture.number(effects).await == written).then_some(())
        },
    )
    .await;
    for process in [&mut relay, &mut consumer] {
        process.terminate();
        let code = process.exit_code(PATIENCE).await;
        assert_eq!(code, Some(0), "{}", process.log());
    }
}
