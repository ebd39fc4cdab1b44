//! A relay driven step by step, and a look at what it left in Kafka.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use domain::EventId;
use local_stack::testing::{TestDatabase, eventually, unique_topic};
use messaging::{Cluster, IncomingRecord, PartitionReader, envelope, partition_of};
use outbox_relay::app::Assembly;
use outbox_relay::{Metrics, Relay, Settings, Step};
use prometheus_client::registry::Registry;
use service::{CancellationToken, Readiness, Source};
use tokio_postgres::Client;

pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) topic: String,
    pub(crate) cluster: Cluster,
    pub(crate) sql: Client,
    /// Dropped last: it takes the database with it.
    pub(crate) database: TestDatabase,
    pub(crate) brokers: String,
}

impl Fixture {
    /// A database, and a topic that exists.
    pub(crate) async fn new() -> Self {
        Self::in_database(TestDatabase::create().await).await
    }

    /// The same in a database that lies elsewhere.
    pub(crate) async fn in_database(database: TestDatabase) -> Self {
        let brokers = local_stack::up().unwrap().kafka_brokers;
        Self::with(database, brokers).await
    }

    /// The same with the topic in another Kafka than everybody's.
    pub(crate) async fn on(brokers: &str) -> Self {
        Self::with(TestDatabase::create().await, brokers.to_owned()).await
    }

    async fn with(database: TestDatabase, brokers: String) -> Self {
        let cluster = Cluster::new(brokers.parse().unwrap());
        let topic = unique_topic("relay");
        cluster.ensure_topic(&topic, PARTITIONS, 1).await.unwrap();
        // Its partitions have no leaders for a moment.
        for partition in 0..PARTITIONS {
            let mut reader = PartitionReader::new(cluster.clone(), &topic, partition);
            eventually("a leader", PATIENCE, async || reader.latest().await.ok()).await;
        }
        Self {
            topic,
            cluster,
            sql: database.connect().await,
            database,
            brokers,
        }
    }

    /// What the processes of this test are told.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.database.url().to_owned()),
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC_PARTITIONS", PARTITIONS.to_string()),
            ("LEASE_TTL", "2s".to_owned()),
            ("OPS_PORT", "0".to_owned()),
        ]
    }

    /// A relay to be stepped, with batches as small as they can be.
    pub(crate) fn relay(&self, events_per_slot: u32) -> Stepped {
        self.relay_with("RELAY__BATCH_EVENTS_PER_SLOT", events_per_slot)
    }

    /// A relay to be stepped, whose batches large events do not end.
    pub(crate) fn relay_of_large_batches(&self) -> Stepped {
        self.relay_with("RELAY__BATCH_BYTES_PER_SLOT", 100_000_000)
    }

    fn relay_with(&self, name: &'static str, value: u32) -> Stepped {
        self.relay_with_variable(name, &value.to_string())
    }

    /// A relay to be stepped, with another setting.
    pub(crate) fn relay_with_variable(&self, name: &'static str, value: &str) -> Stepped {
        let mut variables = self.variables();
        variables.push((name, value.to_owned()));
        let source = Source::from_pairs(variables).unwrap();
        let settings = Settings::read(&source).unwrap();
        let metrics = Metrics::register(&mut Registry::default());
        let assembly = Assembly::new(&settings, metrics.clone(), &Readiness::new());
        let stop = CancellationToken::new();
        tokio::spawn(assembly.keeper.run(stop.clone()));
        let background = assembly.background;
        let token = stop.clone();
        tokio::spawn(async move { Box::pin(background.run(&token)).await });
        Stepped {
            relay: assembly.relay,
            metrics,
            _stop: stop.drop_guard(),
        }
    }

    /// Inserts events with these keys, in this order, in one transaction.
    pub(crate) async fn write(&self, keys: &[&str]) {
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), $1, key, 'T', '{}' from unnest($2::text[]) key",
                &[&self.topic, &keys],
            )
            .await
            .unwrap();
    }

    /// Inserts events with these keys and payloads of these sizes, in one transaction.
    pub(crate) async fn write_sized(&self, events: &[(&str, i32)]) {
        let (keys, sizes): (Vec<&str>, Vec<i32>) = events.iter().copied().unzip();
        self.sql
            .execute(
                "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), $1, e.key, 'T', to_json(repeat('x', e.size))
                 from unnest($2::text[], $3::int[]) with ordinality e(key, size, place)
                 order by e.place",
                &[&self.topic, &keys, &sizes],
            )
            .await
            .unwrap();
    }

    pub(crate) async fn until(&self, state: &str, events: i64) {
        eventually(&format!("{events} {state} events"), PATIENCE, async || {
            (self.count(state).await == events).then_some(())
        })
        .await;
    }

    /// What a query says in one row and column.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Tests ask all the time how much is published, which its table tells at once.
    pub(crate) async fn count(&self, state: &str) -> i64 {
        if state == "published" {
            return self.number("select count(*) from outbox_published").await;
        }
        self.sql
            .query_one("select count(*) from outbox where state = $1", &[&state])
            .await
            .unwrap()
            .get(0)
    }

    /// Waits for as long as it goes on: how long all take is for the machine to say, that none comes
    /// is a stall.
    pub(crate) async fn until_published(&self, events: i64) {
        let (mut count, mut since) = (-1, Instant::now());
        while count != events {
            let now = self.count("published").await;
            if now != count {
                (count, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "stalled at {count} of {events}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything in the topic, by partition, in the order of offsets.
    pub(crate) async fn records(&self) -> HashMap<i32, Vec<IncomingRecord>> {
        let mut all = HashMap::new();
        // The first request after an outage may find a connection that is gone.
        let counts = eventually("the topics", PATIENCE, async || {
            self.cluster.partition_counts().await.ok()
        })
        .await;
        for partition in 0..counts[&self.topic] {
            let mut reader = PartitionReader::new(self.cluster.clone(), &self.topic, partition);
            let end = reader.latest().await.unwrap();
            let mut records: Vec<IncomingRecord> = Vec::new();
            while let from = records.last().map_or(0, |r| r.offset + 1)
                && from < end
            {
                let fetched = reader.fetch(from, 1_000_000, Duration::from_secs(5)).await;
                records.extend(fetched.unwrap().records);
            }
            all.insert(partition, records);
        }
        all
    }

    /// From now on the test is about `topic` alone: what was published elsewhere is forgotten.
    pub(crate) async fn look_at(&mut self, topic: String) {
        self.topic = topic;
        self.sql
            .execute(
                "delete from outbox_published using outbox_event e
                 where e.id = outbox_published.id and e.topic <> $1",
                &[&self.topic],
            )
            .await
            .unwrap();
    }

    /// The ids of the events in the topic, by key, first occurrences in the order of Kafka; and how
    /// many records repeat an event. Each lies where its key belongs and where the outbox says.
    pub(crate) async fn published_by_key(&self) -> (HashMap<String, Vec<i64>>, usize) {
        let rows = self
            .sql
            .query(
                "select e.event_id::text, e.id, e.key, p.kafka_partition, p.kafka_offset
                 from outbox_event e join outbox_published p using (id)",
                &[],
            )
            .await
            .unwrap();
        let known: HashMap<EventId, (i64, String, i32, i64)> = rows
            .iter()
            .map(|row| {
                let event_id: EventId = row.get::<_, &str>(0).parse().unwrap();
                (event_id, (row.get(1), row.get(2), row.get(3), row.get(4)))
            })
            .collect();
        let mut by_key: HashMap<String, Vec<i64>> = HashMap::new();
        let mut found = HashSet::new();
        let mut copies = 0;
        let mut at_recorded_place = 0;
        for (partition, records) in self.records().await {
            for record in records {
                let event_id = envelope::decode(&record).unwrap().event_id;
                let (id, key, recorded_partition, recorded_offset) = &known[&event_id];
                assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
                assert_eq!(partition, partition_of(key.as_bytes(), PARTITIONS));
                if (partition, record.offset) == (*recorded_partition, *recorded_offset) {
                    at_recorded_place += 1;
                }
                if found.insert(*id) {
                    by_key.entry(key.clone()).or_default().push(*id);
                } else {
                    copies += 1;
                }
            }
        }
        assert_eq!(
            at_recorded_place,
            known.len(),
            "each lies where the outbox says"
        );
        (by_key, copies)
    }
}

pub(crate) struct Stepped {
    pub(crate) relay: Relay,
    pub(crate) metrics: Metrics,
    _stop: service::DropGuard,
}

impl Stepped {
    /// Steps until a step ends as `wanted` says.
    pub(crate) async fn step_until(&mut self, what: &str, wanted: impl Fn(Step) -> bool) {
        eventually(what, PATIENCE, async || {
            wanted(self.relay.step().await.unwrap()).then_some(())
        })
        .await;
    }

    /// Steps until nothing is pending and nothing in flight. A step that is idle is no sign of it:
    /// nothing goes out either while the topics are not known yet.
    pub(crate) async fn drain(&mut self, fixture: &Fixture) {
        eventually("an empty outbox", PATIENCE, async || {
            self.relay.step().await.unwrap();
            let done = self.metrics.in_flight.get() == 0 && fixture.count("pending").await == 0;
            done.then_some(())
        })
        .await;
    }
}

/// Fails when the events of a key are not in the order of their ids.
pub(crate) fn assert_in_order(by_key: &HashMap<String, Vec<i64>>) {
    for (key, ids) in by_key {
        assert!(ids.is_sorted(), "key {key}: {ids:?}");
    }
}
