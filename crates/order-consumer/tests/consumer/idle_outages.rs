//! A consumer that has nothing to do tells all the same when it could do nothing.

use std::sync::Arc;
use std::time::Duration;

use local_stack::testing::{KafkaProxy, Spawned, eventually};
use messaging::Cluster;
use order_consumer::handlers::registry;
use order_consumer::partition::PartitionContext;
use order_consumer::partition::{PartitionConsumer, Step};
use service::CancellationToken;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::ops::Ops;
use crate::process::BINARY;
use crate::progress::{flows, stands_still};
use crate::servers::TOPIC;
use crate::support::{Fixture, PATIENCE, drain, order};

/// Partitions are looked up every 20 s, and a look may take 10 s.
const LOOK_PATIENCE: Duration = Duration::from_mins(2);

impl Fixture {
    /// To the server, beside the test's database.
    async fn server(&self) -> Client {
        let (server, _) = self.test.url().rsplit_once('/').unwrap();
        let url = format!("{server}/postgres");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

/// A consumer with the proxy between it and Kafka.
fn through(fixture: &Fixture, proxy: &KafkaProxy) -> Spawned {
    let mut variables = fixture.variables();
    variables.retain(|(name, _)| *name != "KAFKA_BROKERS");
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    Spawned::start(BINARY, &["run"], variables)
}

/// Waits until the reason of `check` has all `parts`, each of which is one of several between bars.
async fn until_told(ops: Ops, check: &str, parts: &[&str], patience: Duration) {
    let mut last = None;
    eventually(&format!("{check} to be missed"), patience, async || {
        let reason = ops.reason(check).await;
        if reason != last {
            println!("{check}: {reason:?}");
            last.clone_from(&reason);
        }
        let has = |reason: &str, part: &str| part.split('|').any(|one| reason.contains(one));
        let told = |reason: String| parts.iter().all(|part| has(&reason, part));
        reason.is_some_and(told).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_leases_it_is_not_ready_and_says_why() {
    let fixture = Fixture::on_the_real_topic().await;
    fixture
        .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    let consumer = fixture.start();
    let ops = Ops::of(&consumer).await;
    ops.until_ready().await;
    let partitions = f64::from(fixture.partitions().await);
    ops.until("inbox_partitions_owned", partitions).await;
    // Of whichever topic noticed first.
    let leases = "leases of the-group/order.";

    // Somebody holds what would be renewed; Postgres answers all else.
    let hold = "begin; select from lease_member for update";
    fixture.sql.batch_execute(hold).await.unwrap();
    until_told(ops, "postgres", &[leases, "not renewed"], PATIENCE).await;
    ops.until("inbox_partitions_owned", 0.0).await;
    fixture.sql.batch_execute("rollback").await.unwrap();
    ops.until_ready().await;

    // Postgres is away.
    let server = fixture.server().await;
    let name = fixture.text("select current_database()::text").await;
    let close = format!("alter database {name} with allow_connections false");
    server.batch_execute(&close).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    server.query(cut, &[&name]).await.unwrap();
    ops.until("inbox_partitions_owned", 0.0).await;
    until_told(
        ops,
        "postgres",
        &[leases, "not currently accepting connections"],
        PATIENCE,
    )
    .await;
    let open = format!("alter database {name} with allow_connections true");
    server.batch_execute(&open).await.unwrap();
    ops.until_ready().await;
    let product = Uuid::now_v7().to_string();
    fixture.produce(0, vec![order(&product, 1)]).await;
    let sold = "select count(*) from product_sales where product_id = $1";
    let sql = fixture.test.connect().await;
    eventually("the sale", PATIENCE, async || {
        let row = sql.query_one(sold, &[&product]).await.unwrap();
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_mute_it_says_so_and_can_be_stopped() {
    let fixture = Fixture::on_the_real_topic().await;
    fixture
        .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut consumer = through(&fixture, &proxy);
    let ops = Ops::of(&consumer).await;
    let partitions = f64::from(fixture.partitions().await);
    ops.until("inbox_partitions_owned", partitions).await;
    ops.until_ready().await;
    proxy.set_mute(true);
    // Whichever partition noticed first.
    let parts = ["order.created/|order.cancelled/", "since 20"];
    until_told(ops, "kafka", &parts, PATIENCE).await;
    proxy.set_mute(false);
    ops.until_ready().await;
    let product = Uuid::now_v7().to_string();
    fixture.place(&product, 10).await;
    fixture.until_sold(&product, 10).await;
    proxy.set_mute(true);
    until_told(ops, "kafka", &parts, PATIENCE).await;
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(5)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_owns_no_partition_misses_kafka_too() {
    let fixture = Fixture::on_the_real_topic().await;
    // Another member has all of them, and gives none up.
    for topic in registry().topics() {
        fixture.cluster.ensure_topic(&topic, 6, 1).await.unwrap();
        let partitions = fixture.cluster.partition_counts().await.unwrap()[&topic];
        let taken = format!(
            "insert into lease_member (scope, member_id, ttl, expires_at)
             values ('the-group/{topic}', '{id}', '1 hour', now() + interval '30 minutes');
             insert into lease (scope, unit, owner, epoch)
             select 'the-group/{topic}', unit, '{id}', 1
             from generate_series(0, {partitions} - 1) unit",
            id = Uuid::now_v7()
        );
        fixture.sql.batch_execute(&taken).await.unwrap();
    }
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    let mut consumer = through(&fixture, &proxy);
    let ops = Ops::of(&consumer).await;
    ops.until_ready().await;
    proxy.set_mute(true);
    until_told(
        ops,
        "kafka",
        &["order.created: |order.cancelled: ", "since 20"],
        LOOK_PATIENCE,
    )
    .await;
    assert_eq!(ops.metric("inbox_partitions_owned").await, Some(0.0));
    proxy.set_mute(false);
    ops.until_ready().await;
    // In the middle of a look that nobody answers it ends in time.
    proxy.set_mute(true);
    until_told(ops, "kafka", &["order."], LOOK_PATIENCE).await;
    consumer.terminate();
    let ended = consumer.exit_code(Duration::from_secs(5)).await;
    assert_eq!(ended, Some(0), "{}", consumer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_partition_that_nobody_consumes_is_named() {
    let fixture = Fixture::on_the_real_topic().await;
    fixture
        .told(&["offsets", "reset", "--all-topics", "--to", "latest"])
        .await;
    let partitions = fixture.partitions().await;
    // Somebody holds what would be claimed; the heartbeat has all it needs.
    let hold = format!(
        "insert into lease (scope, unit)
         select 'the-group/{TOPIC}', unit from generate_series(0, {partitions} - 1) unit;
         begin; select from lease where unit = 0 for update"
    );
    fixture.sql.batch_execute(&hold).await.unwrap();
    let consumer = fixture.start();
    let ops = Ops::of(&consumer).await;
    let product = Uuid::now_v7().to_string();
    fixture.produce(0, vec![order(&product, 1)]).await;
    stands_still(ops, "progress", &[&format!("{TOPIC}/0"), "no process"]).await;
    fixture.sql.batch_execute("rollback").await.unwrap();
    let sql = fixture.test.connect().await;
    let sold = "select count(*) from product_sales where product_id = $1";
    flows(1, async || {
        let row = sql.query_one(sold, &[&product]).await.unwrap();
        Some(row.get(0))
    })
    .await;
    ops.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_while_nobody_says_where_it_stands_it_stops() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    fixture.produce(0, vec![order("P-1", 1)]).await;
    drain(&mut fixture.consumer(0, &leases).0).await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set_mute(true);
    let (context, _) = fixture.context(0, &leases);
    let mut consumer = PartitionConsumer::new(PartitionContext {
        records: Arc::new(Cluster::new(proxy.brokers().parse().unwrap())),
        ..context
    });
    let stop = CancellationToken::new();
    let stopping = async {
        eventually("Kafka to be asked", PATIENCE, async || {
            (proxy.accepted() > 0).then_some(())
        })
        .await;
        stop.cancel();
    };
    let turn = tokio::time::timeout(Duration::from_secs(5), consumer.step(&stop));
    let (turn, ()) = tokio::join!(turn, stopping);
    assert_eq!(turn.unwrap().unwrap(), Step::Empty);
}
