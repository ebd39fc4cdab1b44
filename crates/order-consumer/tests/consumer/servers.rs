//! What happens when a server goes, or the topic changes, with servers of the test's own.

use std::sync::Arc;
use std::time::Duration;

use local_stack::testing::{
    KafkaServer, PostgresServer, Spawned, TestDatabase, delete_topic, eventually,
};
use messaging::{Cluster, OutgoingRecord, PartitionWriter, partition_of};
use tokio_postgres::{Client, NoTls};

use crate::java::Script;
use crate::ops::Ops;
use crate::process::BINARY;
use crate::support::{PATIENCE, make_topic, order};

pub(crate) const TOPIC: &str = "order.created";

/// Calls from a thread that may wait.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.unwrap()
}

/// A Kafka of a test's own, where the topics have the names that the executable knows, and a
/// database.
pub(crate) struct Private {
    pub(crate) brokers: String,
    kafka: Arc<KafkaServer>,
    database: TestDatabase,
}

impl Private {
    pub(crate) async fn new() -> Self {
        Self::with(TestDatabase::create().await).await
    }

    async fn with(database: TestDatabase) -> Self {
        let kafka = blocking(|| KafkaServer::start(&[])).await;
        let cluster = Cluster::new(kafka.brokers().parse().unwrap());
        make_topic(&cluster, TOPIC, 2).await;
        Self {
            brokers: kafka.brokers(),
            kafka: Arc::new(kafka),
            database,
        }
    }

    pub(crate) fn start(&self) -> Spawned {
        self.start_with(Vec::new())
    }

    /// With these variables instead of the usual ones.
    pub(crate) fn start_with(&self, variables: Vec<(&'static str, String)>) -> Spawned {
        Spawned::start(BINARY, &["run"], self.variables(variables))
    }

    /// Runs a command that succeeds.
    pub(crate) async fn command(&self, arguments: &[&str]) -> String {
        let mut command = Spawned::start(BINARY, arguments, self.variables(Vec::new()));
        let code = command.exit_code(PATIENCE).await;
        let said = command.log();
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }

    fn variables(&self, mut own: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        for (name, value) in [
            ("DATABASE_URL", self.database.url().to_owned()),
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC_PARTITIONS", "2".to_owned()),
            ("LEASE_TTL", "4s".to_owned()),
            ("OPS_PORT", "0".to_owned()),
        ] {
            if !own.iter().any(|(other, _)| *other == name) {
                own.push((name, value));
            }
        }
        own
    }

    /// Kills Kafka and starts it again, with its data and on its port.
    pub(crate) async fn restart_kafka(&self) {
        let kafka = Arc::clone(&self.kafka);
        blocking(move || {
            kafka.kill();
            kafka.start_again();
        })
        .await;
    }

    pub(crate) async fn sql(&self) -> Option<Client> {
        let connecting = tokio_postgres::connect(self.database.url(), NoTls);
        let (client, connection) = connecting.await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    pub(crate) async fn sold(&self) -> Option<i64> {
        let query = "select coalesce(sum(orders), 0)::bigint from product_sales";
        let row = self.sql().await?.query_one(query, &[]).await.ok()?;
        Some(row.get(0))
    }

    pub(crate) async fn until_sold(&self, orders: i64) {
        eventually("the sales", PATIENCE, async || {
            let sold = self.sold().await?;
            assert!(sold <= orders, "{sold} sold of {orders}");
            (sold == orders).then_some(())
        })
        .await;
    }

    pub(crate) async fn place(&self, partitions: i32, orders: usize) {
        for partition in 0..partitions {
            let records: Vec<_> = std::iter::repeat_with(|| order("P-1", 1))
                .filter(|record| partition_of(&record.key, partitions) == partition)
                .take(orders)
                .collect();
            self.produce(partition, records).await;
        }
    }

    pub(crate) async fn produce(&self, partition: i32, records: Vec<OutgoingRecord>) {
        let cluster = Cluster::new(self.brokers.parse().unwrap());
        let mut writer = PartitionWriter::new(cluster, TOPIC, partition);
        // A partition that has just been made is refused until it has a leader.
        eventually("the records to be written", PATIENCE, async || {
            writer.produce(records.clone()).await.ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_first_start_creates_makes_no_noise() {
    let private = Private::new().await;
    let mut quiet = Vec::new();
    for group in ["one", "two", "three"] {
        let broker = &private.brokers;
        delete_topic(broker, TOPIC).await;
        let cluster = Cluster::new(broker.parse().unwrap());
        eventually("the broker to know that it is gone", PATIENCE, async || {
            let counts = cluster.partition_counts().await.ok()?;
            (!counts.contains_key(TOPIC)).then_some(())
        })
        .await;
        let group = vec![("KAFKA_GROUP_ID", group.to_owned())];
        let mut consumer = private.start_with(group);
        let ops = Ops::of(&consumer).await;
        ops.until("inbox_partitions_owned", 2.0).await;
        private.place(2, 1).await;
        ops.until("inbox_consumed_total", 2.0).await;
        ops.until_ready().await;
        consumer.terminate();
        consumer.exit_code(PATIENCE).await;
        let log = consumer.log();
        let warnings = log.lines().filter(|line| line.contains("\"WARN\""));
        quiet.extend(warnings.map(str::to_owned));
    }
    assert_eq!(quiet, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_p9_postgres_dies_inside_transactions_and_partitions_are_added() {
    let postgres = Arc::new(blocking(|| PostgresServer::start_empty(&[])).await);
    let private = Private::with(TestDatabase::create_on(&postgres.url()).await).await;
    let consumer = private.start();
    private.place(2, 10).await;
    private.until_sold(20).await;
    // So slow that Postgres dies in the middle of a batch's transaction.
    let slow = "create function slow() returns trigger language plpgsql as $$ begin
            perform pg_sleep(1.2); return new; end $$;
        create trigger slow before insert on product_sales for each row execute function slow()";
    let sql = private.sql().await.unwrap();
    sql.batch_execute(slow).await.unwrap();
    let mut placed = 20;
    for _ in 0..2 {
        let sql = private.sql().await.unwrap();
        private.place(2, 30).await;
        placed += 60;
        let busy = "select 1 from pg_stat_activity where query ilike 'insert into product_sales%' \
                    and state = 'active'";
        eventually("a batch in its transaction", PATIENCE, async || {
            (!sql.query(busy, &[]).await.unwrap().is_empty()).then_some(())
        })
        .await;
        let dying = Arc::clone(&postgres);
        blocking(move || {
            dying.kill();
            dying.start_again();
        })
        .await;
        private.until_sold(placed).await;
    }
    let sql = private.sql().await.unwrap();
    let held = "select count(*) from inbox_dead_letter";
    assert_eq!(sql.query_one(held, &[]).await.unwrap().get::<_, i64>(0), 0);
    sql.batch_execute("drop trigger slow on product_sales")
        .await
        .unwrap();

    let brokers = private.brokers.clone();
    let grow = Script::default().line(&format!("partitions {TOPIC} 4"));
    blocking(move || grow.run(&brokers)).await;
    let owned = "select count(*) from lease
                 where owner is not null and scope like '%/order.created'";
    eventually(
        "the new partitions to be owned",
        Duration::from_secs(30),
        async || {
            let owned: i64 = sql.query_one(owned, &[]).await.ok()?.get(0);
            (owned == 4).then_some(())
        },
    )
    .await;
    private.place(4, 5).await;
    private.until_sold(placed + 20).await;
    drop(consumer);
}
