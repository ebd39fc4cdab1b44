//! The usual outbox: one table, a partial index on `processed_at is null`, marks by `update`. Driven
//! with the same produce requests, one reader and one marker in turn, as its examples do.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use domain::{Content, OutboxEvent};
use futures::future::try_join_all;
use messaging::{Cluster, PartitionWriter, envelope, partition_of};
use outbox_relay::batch_size;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::bare::PAGE;
use crate::seed::PARTITIONS;

/// Longer than this nobody waits for it; what it did until then counts.
const LONGEST: Duration = Duration::from_mins(1);

/// What a transaction writes that then stays open.
pub(crate) const INSERT_100_000: &str = "\
insert into usual (id, event_id, topic, key, event_type, payload)
select 1000000000 + n, gen_random_uuid(), 't', n::text, 'T', '{}'
from generate_series(1, 100000) n";

/// Turns a seeded database into one of that kind, with as many published events as there are
/// pending ones if `published`; those were pending when the table was analyzed. With an index
/// `by_key`, events can be looked up and replayed by key, as with `outbox_event`.
pub(crate) async fn prepare(sql: &Client, published: bool, by_key: bool) -> Result<()> {
    sql.batch_execute(
        "create table usual as select e.*, null::timestamptz as processed_at from outbox_event e;
         alter table usual add primary key (id);
         create index on usual (id) where processed_at is null",
    )
    .await?;
    if by_key {
        sql.batch_execute("create index on usual (key, id)").await?;
    }
    sql.batch_execute("vacuum analyze usual").await?;
    if published {
        sql.batch_execute(
            "update usual set processed_at = now();
             insert into outbox_event (event_id, topic, key, event_type, payload)
             select gen_random_uuid(), topic, key, event_type, payload from outbox_event
             order by id;
             insert into usual select * from outbox_event e
             where e.id > (select max(id) from usual)",
        )
        .await?;
        sql.batch_execute("vacuum usual").await?;
    }
    Ok(())
}

/// Publishes what is pending, in order; how many events and in which time.
pub(crate) async fn drain(sql: &Client, cluster: &Cluster, topic: &str) -> Result<(i64, Duration)> {
    let mut writers: Vec<PartitionWriter> = (0..PARTITIONS)
        .map(|partition| PartitionWriter::new(cluster.clone(), topic, partition))
        .collect();
    let read = sql
        .prepare(
            "select id, uuid_send(event_id), topic, key, event_type, schema_version, payload::text,
                    headers::text, created_at
             from usual where processed_at is null order by id limit $1
             for update skip locked",
        )
        .await?;
    let mark = sql
        .prepare("update usual set processed_at = now() where id = any($1)")
        .await?;
    let started = Instant::now();
    let mut published = 0;
    loop {
        sql.batch_execute("begin").await?;
        let rows = sql.query(&read, &[&PAGE]).await?;
        if rows.is_empty() || started.elapsed() > LONGEST {
            sql.batch_execute("commit").await?;
            return Ok((published, started.elapsed()));
        }
        published += i64::try_from(rows.len())?;
        let mut batches: Vec<Vec<OutboxEvent>> = (0..PARTITIONS).map(|_| Vec::new()).collect();
        let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
        for row in rows {
            ids.push(row.get(0));
            let event = OutboxEvent {
                event_id: Uuid::from_slice(row.get(1))?.into(),
                topic: row.get(2),
                key: row.get(3),
                event_type: row.get(4),
                schema_version: row.get(5),
                source: "/order-api".to_owned(),
                content: Some(Content::json(row.get(6))),
                headers: serde_json::from_str(row.get(7))?,
                created_at: row.get::<_, SystemTime>(8).into(),
            };
            let partition = partition_of(event.key.as_bytes(), PARTITIONS);
            batches[usize::try_from(partition)?].push(event);
        }
        let produced = writers.iter_mut().zip(batches).map(produce);
        try_join_all(produced).await?;
        sql.execute(&mark, &[&ids]).await?;
        sql.batch_execute("commit").await?;
    }
}

async fn produce((writer, events): (&mut PartitionWriter, Vec<OutboxEvent>)) -> Result<()> {
    let mut events = events.as_slice();
    while !events.is_empty() {
        let sizes = events.iter().map(envelope::encoded_size);
        let count = batch_size::take(sizes, batch_size::MAX_REQUEST_BYTES);
        let (now, later) = events.split_at(count);
        writer
            .produce(now.iter().map(envelope::encode).collect())
            .await?;
        events = later;
    }
    Ok(())
}
