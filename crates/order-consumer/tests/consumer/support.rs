//! A partition's consumer driven step by step, and records to feed it with.

use std::sync::Arc;
use std::time::Duration;

use domain::{NewEvent, Order, OrderCreated, OutboxEvent, ProductId};
use local_stack::testing::{TestDatabase, eventually, unique_topic};
use messaging::{Cluster, OutgoingRecord, PartitionReader, PartitionWriter, envelope};
use order_consumer::adapters::postgres::{PostgresInbox, PostgresInboxes};
use order_consumer::handlers::{Handler, ProductSales};
use order_consumer::metrics::TopicMetrics;
use order_consumer::partition::PartitionContext;
use order_consumer::partition::TopicProgress;
use order_consumer::partition::{PartitionConsumer, Step};
use order_consumer::ports::{Inbox, InboxFactory};
use order_consumer::{Metrics, Registry};
use service::{CancellationToken, Readiness, ReadinessIssues, Tracer};
use storage::inbox::Stream;
use storage::lease::{Keeper, Leases};
use storage::{Database, Session};
use time::OffsetDateTime;
use tokio_postgres::Client;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PARTITIONS: i32 = 2;
/// Of sessions: how long a statement may take follows from it.
const TTL: Duration = Duration::from_secs(10);
/// Nobody renews the leases: they last longer than any test.
const LEASES: Duration = Duration::from_mins(5);
pub(crate) const GROUP: &str = "test-group";

pub(crate) struct Fixture {
    pub(crate) topic: String,
    pub(crate) cluster: Cluster,
    pub(crate) brokers: String,
    pub(crate) sql: Client,
    pub(crate) test: TestDatabase,
    pub(crate) database: Database,
}

impl Fixture {
    /// A database, and a topic that exists.
    pub(crate) async fn new() -> Self {
        let test = TestDatabase::create().await;
        let brokers = local_stack::up().unwrap().kafka_brokers;
        let cluster = Cluster::new(brokers.parse().unwrap());
        let topic = unique_topic("consumer");
        make_topic(&cluster, &topic, PARTITIONS).await;
        Self {
            topic,
            cluster,
            brokers,
            sql: test.connect().await,
            database: test.url().parse().unwrap(),
            test,
        }
    }

    /// Appends records to a partition; returns the offset of the first.
    pub(crate) async fn produce(&self, partition: i32, records: Vec<OutgoingRecord>) -> i64 {
        PartitionWriter::new(self.cluster.clone(), &self.topic, partition)
            .produce(records)
            .await
            .unwrap()
    }

    pub(crate) fn inboxes(&self) -> PostgresInboxes {
        PostgresInboxes::new(self.database.clone())
    }

    /// An inbox over a connection of its own.
    pub(crate) fn inbox(&self, session: Session) -> Box<dyn Inbox> {
        Box::new(PostgresInbox::new(self.database.clone(), session))
    }

    /// A member that owns every partition, by one beat of its keeper.
    pub(crate) async fn owner(&self) -> (Keeper, Leases) {
        let scope = Stream::lease_scope(GROUP, &self.topic);
        let (mut keeper, leases) = self.inboxes().leases(&scope, LEASES, PARTITIONS);
        keeper.beat().await.unwrap();
        (keeper, leases)
    }

    /// `OrderCreated` on this fixture's topic, with these handlers.
    pub(crate) fn registry(&self, handlers: Vec<Box<dyn Handler<OrderCreated>>>) -> Registry {
        Registry::default().register_on(&self.topic, handlers)
    }

    pub(crate) fn consumer(
        &self,
        partition: i32,
        leases: &Leases,
    ) -> (PartitionConsumer, TopicMetrics) {
        let registry = self.registry(vec![Box::new(ProductSales)]);
        self.consumer_with(partition, leases, registry)
    }

    pub(crate) fn consumer_with(
        &self,
        partition: i32,
        leases: &Leases,
        registry: Registry,
    ) -> (PartitionConsumer, TopicMetrics) {
        let (context, metrics) = self.context(partition, leases);
        let consumer = PartitionConsumer::new(PartitionContext {
            registry,
            ..context
        });
        (consumer, metrics)
    }

    pub(crate) fn context(
        &self,
        partition: i32,
        leases: &Leases,
    ) -> (PartitionContext, TopicMetrics) {
        let readiness = Readiness::new();
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let metrics = metrics.of(&self.topic);
        let context = PartitionContext {
            stream: Stream {
                group: GROUP.to_owned(),
                topic: self.topic.clone(),
                partition,
            },
            inbox: self.inbox(Session::leased("test", TTL)),
            records: Arc::new(self.cluster.clone()),
            leases: leases.clone(),
            epoch: leases.epoch(partition).expect("owned"),
            registry: self.registry(vec![Box::new(ProductSales)]),
            metrics: metrics.clone(),
            tracer: Tracer::default(),
            topic_progress: TopicProgress::default(),
            postgres: ReadinessIssues::new(readiness.check("postgres")),
            kafka: ReadinessIssues::new(readiness.check("kafka")),
        };
        (context, metrics)
    }

    /// What was sold of a product: orders and units.
    pub(crate) async fn sales(&self, product: &str) -> (i64, i64) {
        let query = "select orders, units from product_sales where product_id = $1";
        let row = self.sql.query_opt(query, &[&product]).await.unwrap();
        row.map_or((0, 0), |row| (row.get(0), row.get(1)))
    }

    pub(crate) async fn text(&self, query: &str) -> String {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }
}

/// Makes a topic and waits until its partitions have leaders, which takes a moment.
pub(crate) async fn make_topic(cluster: &Cluster, topic: &str, partitions: i32) {
    cluster.ensure_topic(topic, partitions, 1).await.unwrap();
    until_led(cluster, topic).await;
}

/// Waits until the partitions of a topic that was made, by whomever, have leaders.
pub(crate) async fn until_led(cluster: &Cluster, topic: &str) {
    let partitions = eventually("the topic to be known", PATIENCE, async || {
        let counts = cluster.partition_counts().await.ok()?;
        counts.get(topic).copied()
    })
    .await;
    for partition in 0..partitions {
        let mut reader = PartitionReader::new(cluster.clone(), topic, partition);
        eventually("a leader", PATIENCE, async || reader.latest().await.ok()).await;
    }
}

/// Steps until Kafka has nothing more; returns how many events were new.
pub(crate) async fn drain(consumer: &mut PartitionConsumer) -> usize {
    let mut new = 0;
    loop {
        match consumer.step(&CancellationToken::new()).await.unwrap() {
            Step::Applied(applied) => new += applied.new,
            Step::Empty => return new,
            Step::Fenced => panic!("the partition is ours"),
        }
    }
}

/// A record of the same key, with another event.
pub(crate) fn next_of_key(of: &OutgoingRecord, product: &str, quantity: i64) -> OutgoingRecord {
    OutgoingRecord {
        key: of.key.clone(),
        ..order(product, quantity)
    }
}

pub(crate) fn event_id(record: &OutgoingRecord) -> String {
    String::from_utf8(record.headers["ce_id"].clone()).unwrap()
}

/// The record of a new order of this product.
pub(crate) fn order(product: &str, quantity: i64) -> OutgoingRecord {
    let product: ProductId = product.parse().unwrap();
    let order = Order::place(
        product,
        quantity.try_into().unwrap(),
        OffsetDateTime::now_utc(),
    );
    record(order.created_event())
}

pub(crate) fn record(event: NewEvent) -> OutgoingRecord {
    envelope::encode(&OutboxEvent {
        event_id: event.event_id,
        topic: event.topic,
        key: event.key,
        event_type: event.event_type,
        schema_version: event.schema_version,
        source: event.source.unwrap_or_default().into_owned(),
        content: event.content,
        headers: event.headers,
        created_at: OffsetDateTime::now_utc(),
    })
}
