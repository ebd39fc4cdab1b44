//! What Postgres has at the end, and what Kafka has.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};
use messaging::Cluster;
use tokio_postgres::Client;

use crate::deployment::GROUP;
use crate::topic::Topic;
use crate::torture::writers::{SOURCE, TOPICS};

/// All rows that are compared with something.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// In the order of their ids.
    pub(crate) events: Vec<Event>,
    /// By their ids.
    pub(crate) orders: HashMap<String, Order>,
    pub(crate) idempotency_keys: HashSet<String>,
    /// Event ids of the inbox.
    pub(crate) inbox: HashSet<String>,
    /// Orders and units by product, by the effects.
    pub(crate) sales: BTreeMap<String, (i64, i64)>,
    /// Dead letters of relay and consumer, in words.
    pub(crate) dead_letters: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Event {
    /// `event_id`, and the header `ce_id`.
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) key: String,
    /// By a writer, not by the API.
    pub(crate) is_foreign: bool,
    pub(crate) product: Option<String>,
    /// Where the outbox says that it is in Kafka.
    pub(crate) place: Option<(i32, i64)>,
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) product: String,
    pub(crate) quantity: i32,
    pub(crate) is_cancelled: bool,
}

/// A record, as far as it is compared.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) event_id: String,
    pub(crate) topic: &'static str,
    pub(crate) key: String,
    pub(crate) place: (i32, i64),
}

const EVENTS: &str = "
    select e.event_id::text, e.topic, e.key, e.source = $1, e.payload->>'productId',
           p.kafka_partition, p.kafka_offset
    from outbox_event e left join outbox_published p using (id) order by e.id";
const ORDERS: &str = "select id::text, product_id, quantity, cancelled_at is not null from orders";
const DEAD_LETTERS: &str = "
    select format('%s of %s in the outbox: %s', cause, key, error) from outbox_held
    union all
    select format('%s at %s/%s %s in the inbox: %s', cause, topic, partition, \"offset\", reason)
    from inbox_dead_letter";

impl Rows {
    pub(crate) async fn load(sql: &Client) -> Result<Self> {
        let events = sql.query(EVENTS, &[&Some(SOURCE)]).await?;
        let events = events.iter().map(|row| {
            let partition: Option<i32> = row.get(5);
            Event {
                id: row.get(0),
                topic: row.get(1),
                key: row.get(2),
                is_foreign: row.get::<_, Option<bool>>(3).unwrap_or_default(),
                product: row.get(4),
                place: partition.zip(row.get(6)),
            }
        });
        let orders = sql.query(ORDERS, &[]).await?;
        let orders = orders.iter().map(|row| {
            let order = Order {
                product: row.get(1),
                quantity: row.get(2),
                is_cancelled: row.get(3),
            };
            (row.get(0), order)
        });
        let sales = "select product_id, orders, units from product_sales";
        let sales = sql.query(sales, &[]).await?;
        let sales = sales
            .iter()
            .map(|row| (row.get(0), (row.get(1), row.get(2))));
        let inbox = format!("select event_id::text from inbox where consumer_group = '{GROUP}'");
        Ok(Self {
            events: events.collect(),
            orders: orders.collect(),
            sales: sales.collect(),
            idempotency_keys: texts(sql, "select key from idempotency_key").await?,
            inbox: texts(sql, &inbox).await?,
            dead_letters: texts(sql, DEAD_LETTERS).await?,
        })
    }
}

async fn texts<T: FromIterator<String>>(sql: &Client, query: &str) -> Result<T> {
    let rows = sql.query(query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Reads all topics from their beginning.
pub(crate) async fn records(brokers: &str) -> Result<Vec<Record>> {
    let cluster = Cluster::new(brokers.parse()?);
    let mut records = Vec::new();
    for name in TOPICS {
        let mut topic = Topic::open_at_start(&cluster, name).await?;
        let read = topic.read().await;
        let read = read.with_context(|| format!("reading {name}"))?;
        records.extend(read.iter().map(|placed| Record {
            event_id: placed.header("ce_id"),
            topic: name,
            key: String::from_utf8_lossy(placed.key()).into_owned(),
            place: (placed.partition, placed.record.offset),
        }));
    }
    Ok(records)
}
