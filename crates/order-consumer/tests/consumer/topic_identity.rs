//! A topic of the same name that is another one.

use std::time::Duration;

use local_stack::testing::{delete_topic, eventually};
use tokio_postgres::Client;

use crate::ops::Ops;
use crate::progress::{flows, stands_still};
use crate::servers::{Private, TOPIC};
use crate::support::{PATIENCE, order};

/// Records that are there are fetched at once. Nothing outside tells when that is done.
const FETCHED: Duration = Duration::from_secs(1);

impl Private {
    /// The topic is deleted and made again.
    async fn make_the_topic_again(&self) {
        let broker = &self.brokers;
        delete_topic(broker, TOPIC).await;
        let cluster = messaging::Cluster::new(broker.parse().unwrap());
        eventually("the topic to be there again", PATIENCE, async || {
            // A consumer that misses it creates it too.
            cluster.ensure_topic(TOPIC, 2, 1).await.ok()
        })
        .await;
    }

    async fn write(&self, product: &str, records: usize) {
        self.produce(0, (0..records).map(|_| order(product, 1)).collect())
            .await;
    }
}

async fn orders_of(sql: &Client, product: &str) -> i64 {
    let query = "select coalesce(sum(orders), 0)::bigint from product_sales where product_id = $1";
    sql.query_one(query, &[&product]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_topic_made_again_while_the_consumer_waits_for_a_lock_stops_it() {
    let private = Private::new().await;
    let sql = private.sql().await.unwrap();
    let mut consumer = private.start();
    let ops = Ops::of(&consumer).await;
    private.write("P-1", 10).await;
    flows(10, async || private.sold().await).await;

    let holder = private.sql().await.unwrap();
    let hold = "begin; select from product_sales where product_id = 'P-1' for update";
    holder.batch_execute(hold).await.unwrap();
    private.write("P-1", 5).await;
    let waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock'
                 and query ilike '%product_sales%'";
    eventually("a batch to wait for the row", PATIENCE, async || {
        (!sql.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    // The next batch is fetched too, and waits: until that is taken Kafka is asked nothing.
    private.write("P-1", 5).await;
    tokio::time::sleep(FETCHED).await;
    private.make_the_topic_again().await;
    private.write("P-2", 50).await;
    holder.batch_execute("rollback").await.unwrap();

    // What was fetched of the old topic counts; nothing of the new one does.
    stands_still(ops, "kafka", &["order.created/", "offsets reset"]).await;
    eventually("the batches that waited", PATIENCE, async || {
        (orders_of(&sql, "P-1").await == 20).then_some(())
    })
    .await;
    assert_eq!(orders_of(&sql, "P-2").await, 0);
    // The same after a restart.
    consumer.terminate();
    consumer.exit_code(PATIENCE).await;
    let consumer = private.start();
    let ops = Ops::of(&consumer).await;
    stands_still(ops, "kafka", &["order.created/", "offsets reset"]).await;
    assert_eq!(orders_of(&sql, "P-2").await, 0);

    private
        .command(&["offsets", "reset", "--all-topics", "--to", "earliest"])
        .await;
    flows(50, async || Some(orders_of(&sql, "P-2").await)).await;
    ops.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_topic_made_again_is_noticed_also_when_nothing_is_known_of_the_last_record() {
    let private = Private::new().await;
    let sql = private.sql().await.unwrap();
    // Records that are none of ours have no event id.
    let mut nameless = order("P-1", 1);
    nameless.headers.clear();
    private.produce(0, vec![nameless; 3]).await;
    let mut consumer = private.start();
    let held = "select count(*) from inbox_dead_letter";
    eventually("them to be held", PATIENCE, async || {
        let held: i64 = sql.query_one(held, &[]).await.unwrap().get(0);
        (held == 3).then_some(())
    })
    .await;
    consumer.terminate();
    consumer.exit_code(PATIENCE).await;
    private.make_the_topic_again().await;
    private.write("P-2", 10).await;
    let consumer = private.start();
    let ops = Ops::of(&consumer).await;
    stands_still(ops, "kafka", &["order.created/", "offsets reset"]).await;
    assert_eq!(orders_of(&sql, "P-2").await, 0);
    private
        .command(&["offsets", "reset", "--all-topics", "--to", "earliest"])
        .await;
    flows(10, async || Some(orders_of(&sql, "P-2").await)).await;
}
