//! What Postgres has: the tables read from outside, by a connection of our own, and a writer of
//! events that is no service of this project.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use domain::OrderId;
use tokio_postgres::{Client, NoTls};

/// A connection to the services' database.
pub(crate) struct Books {
    client: Client,
}

/// How many rows there are; events and inbox rows are those of topic `order.created`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) orders: i64,
    pub(crate) events: i64,
    /// Of any topic.
    pub(crate) pending: i64,
    /// Of any topic.
    pub(crate) held: i64,
    pub(crate) published: i64,
    pub(crate) inbox: i64,
    /// Inbox rows of topic `order.cancelled`.
    pub(crate) cancelled: i64,
}

/// Orders and units per product.
pub(crate) type Sales = BTreeMap<String, (i64, i64)>;

/// One event, in the outbox and behind it.
#[derive(Debug)]
pub(crate) struct EventRow {
    pub(crate) event_id: String,
    pub(crate) payload: String,
    /// As RFC 3339.
    pub(crate) created_at: String,
    pub(crate) state: String,
    /// Partition and offset that the outbox remembers.
    pub(crate) kafka: Option<(i32, i64)>,
    /// Partition and offset that the inbox remembers, by consumer group.
    pub(crate) inbox: Vec<(String, i32, i64)>,
}

/// A record that could not be applied.
#[derive(Debug)]
pub(crate) struct DeadLetterRow {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) cause: String,
    pub(crate) reason: String,
    pub(crate) value: Vec<u8>,
}

const COUNTS: &str = "
    select (select count(*) from orders),
           (select count(*) from outbox_event where topic = 'order.created'),
           (select count(*) from outbox_pending),
           (select count(*) from outbox_held),
           (select count(*) from outbox_published p join outbox_event e using (id)
            where e.topic = 'order.created'),
           (select count(*) from inbox where topic = 'order.created'),
           (select count(*) from inbox where topic = 'order.cancelled')";

impl Books {
    pub(crate) async fn open(database_url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(database_url, NoTls)
            .await
            .context("connecting to Postgres")?;
        // What ends the connection is told to whoever uses the client next.
        tokio::spawn(connection);
        Ok(Self { client })
    }

    pub(crate) async fn counts(&self) -> Result<Counts> {
        let row = self.client.query_one(COUNTS, &[]).await?;
        Ok(Counts {
            orders: row.get(0),
            events: row.get(1),
            pending: row.get(2),
            held: row.get(3),
            published: row.get(4),
            inbox: row.get(5),
            cancelled: row.get(6),
        })
    }

    /// How many events, of any topic, wait to be published.
    pub(crate) async fn waiting(&self) -> Result<i64> {
        let sql = "select count(*) from outbox where state in ('pending', 'unavailable')";
        Ok(self.client.query_one(sql, &[]).await?.get(0))
    }

    pub(crate) async fn sales(&self) -> Result<Sales> {
        let sql = "select product_id, orders, units from product_sales";
        let rows = self.client.query(sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| (row.get(0), (row.get(1), row.get(2))))
            .collect())
    }

    /// The events of a key, in the order of their ids.
    pub(crate) async fn events(&self, key: &str) -> Result<Vec<EventRow>> {
        let sql = "
            select o.event_id::text, o.payload::text, to_json(o.created_at)#>>'{}', o.state,
                   o.kafka_partition, o.kafka_offset,
                   array(select i.consumer_group from inbox i where i.event_id = o.event_id
                         order by i.consumer_group),
                   array(select i.partition from inbox i where i.event_id = o.event_id
                         order by i.consumer_group),
                   array(select i.\"offset\" from inbox i where i.event_id = o.event_id
                         order by i.consumer_group)
            from outbox o where o.key = $1 order by o.id";
        let rows = self.client.query(sql, &[&key]).await?;
        let read = |row: &tokio_postgres::Row| {
            let partition: Option<i32> = row.get(4);
            let groups: Vec<String> = row.get(6);
            let partitions: Vec<i32> = row.get(7);
            let offsets: Vec<i64> = row.get(8);
            let places = groups.into_iter().zip(partitions).zip(offsets);
            EventRow {
                event_id: row.get(0),
                payload: row.get(1),
                created_at: row.get(2),
                state: row.get(3),
                kafka: partition.zip(row.get(5)),
                inbox: places
                    .map(|((group, partition), offset)| (group, partition, offset))
                    .collect(),
            }
        };
        Ok(rows.iter().map(read).collect())
    }

    /// The ids of all events of topic `order.created`, by key, in the order they were written.
    pub(crate) async fn events_by_key(&self) -> Result<BTreeMap<Vec<u8>, Vec<String>>> {
        let sql = "select key, array_agg(event_id::text order by id) from outbox_event
                   where topic = 'order.created' group by key";
        let rows = self.client.query(sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| (row.get::<_, String>(0).into_bytes(), row.get(1)))
            .collect())
    }

    /// Milliseconds between the begin of the transaction that wrote an order's event and the begin
    /// of the one that consumed it, by Postgres' clock; `None` until that is committed.
    pub(crate) async fn created_to_processed(&self, order: OrderId) -> Result<Option<f64>> {
        let sql = "
            select (extract(epoch from i.processed_at - e.created_at) * 1000)::float8
            from outbox_event e join inbox i using (event_id) where e.key = $1";
        let row = self.client.query_opt(sql, &[&order.to_string()]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Where the consumer groups stand in a partition: the offset to read next.
    pub(crate) async fn next_offset(&self, partition: i32) -> Result<i64> {
        let sql = "select coalesce(min(next_offset), 0) from inbox_offset
                   where topic = 'order.created' and partition = $1";
        Ok(self.client.query_one(sql, &[&partition]).await?.get(0))
    }

    /// The dead letters that are held of a key, in the order of their offsets.
    pub(crate) async fn dead_letters(&self, key: &[u8]) -> Result<Vec<DeadLetterRow>> {
        let sql = "
            select partition, \"offset\", cause, reason, coalesce(value, '') from inbox_dead_letter
            where key = $1 and settled_at is null order by \"offset\"";
        let rows = self.client.query(sql, &[&key]).await?;
        let read = |row: &tokio_postgres::Row| DeadLetterRow {
            partition: row.get(0),
            offset: row.get(1),
            cause: row.get(2),
            reason: row.get(3),
            value: row.get(4),
        };
        Ok(rows.iter().map(read).collect())
    }

    /// Commits an event as any program with SQL may: one plain insert, no NOTIFY. It is an
    /// `OrderCreated` of version 1: one unit of `product`.
    pub(crate) async fn write_event(&self, key: &str, product: &str) -> Result<()> {
        let sql = "
            insert into outbox_event (event_id, topic, key, event_type, payload)
            values (gen_random_uuid(), 'order.created', $1::text, 'OrderCreated',
                    json_build_object('orderId', $1::text, 'productId', $2::text))";
        self.client.execute(sql, &[&key, &product]).await?;
        Ok(())
    }
}
