//! Reading what is pending, for all idle slots at once.

use std::collections::HashMap;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{
    Array, BigInt, Bytea, Integer, Json, Jsonb, Nullable, SmallInt, Text, Timestamptz,
    Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use domain::{OutboxEvent, Slot};
use futures::TryStreamExt;
use time::OffsetDateTime;
use uuid::Uuid;

use super::batch::{Batch, PendingRow, joined};
use super::columns::{ContentType, EventColumns, JsonText, TextHeaders, content_from, event_from};
use super::hold::Destination;
use super::redrive::TopicKey;
use super::unavailable::{UnavailableGroup, slot_from};
use crate::pg::cached::cached_rows;
use crate::pg::error::StorageError;
use crate::pg::xid::{Ctid, RowVersion, Tid, Xid, Xmin};

/// How much one read takes of each slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Events per slot.
    pub events: i64,
    /// Bytes of keys, payloads and headers per slot; the event that crosses it is still taken.
    pub bytes: i64,
    /// The same of all slots together: what crosses it stays for the next read, last slots first.
    pub total_bytes: i64,
    /// Payload and headers of an event with more bytes than this are not read.
    pub event_bytes: i64,
}

/// One snapshot in four parts: what is pending, its events but for those that are too large, which of
/// them follow a dead one, and the groups of unavailable events in the slots and topics found. The
/// caller joins them: joined here, each event would cost a descent of its own.
///
/// Plan: per slot one walk along `outbox_pending_pkey`; one walk along `outbox_event_pkey` over all
/// ids found, which are mostly neighbours; only while any event is dead, a look-up in
/// `outbox_held_key` per event; only where a slot has unavailable events, a probe of
/// `outbox_held_unavailable` per group. The `order by slot, id` is what makes the planner walk the
/// index instead of sorting; the session's settings (`Session::with_index_plans`) do the rest.
pub const READ_PENDING: &str = "\
with n as materialized (
    select slot, id, bytes, writer, place
    from (select q.slot, q.id, q.bytes, q.writer, q.place,
                 sum(q.bytes) over (order by s.turn, q.id) as total
          from unnest($1) with ordinality s(slot, turn)
          cross join lateral (
              select q.*, sum(q.bytes) over (order by q.id) as total
              from (select p.slot, p.id, p.bytes, p.xmin as writer, p.ctid as place
                    from outbox_pending p
                    where p.slot = s.slot order by p.slot, p.id limit $2) q) q
          where q.total - q.bytes < $3) q
    where total - bytes < $4)
select n.id, n.slot, n.bytes, n.writer, n.place,
       null::uuid, null::text, null::text, null::text, null::smallint, null::text, null::text,
       null::json, null::bytea, null::jsonb, null::timestamptz,
       null::bigint, null::integer, null::integer
from n
union all
select e.id, null, null, null, null,
       e.event_id, e.topic, e.key, e.event_type, e.schema_version, coalesce(e.source, $5),
       e.content_type, e.payload, e.payload_bytes, e.headers, e.created_at,
       null, null, null
from outbox_event e where e.id = any(array(select id from n where bytes <= $6))
union all
select e.id, null, null, null, null,
       null, null, null, null, null, null, null, null, null, null, null,
       dead.id, null, null
from outbox_event e
cross join lateral (
    select h.id from outbox_held h
    where h.topic = e.topic and h.key = e.key and h.id < e.id
      and h.cause <> 'unavailable' and h.discarded_at is null
    order by h.topic, h.key, h.id limit 1) dead
where (select exists (select from outbox_held where cause <> 'unavailable' and discarded_at is null))
  and e.id = any(array(select id from n))
union all
select g.id, t.slot, null, null, null,
       null, t.topic, null, null, null, null, null, null, null, null, null,
       null, g.partition_count, g.partition
from (
    select distinct n.slot, e.topic from n join outbox_event e on e.id = n.id
    where n.slot = any(array(
        select s.slot from unnest($1) s(slot)
        cross join lateral (
            select from outbox_held h where h.slot = s.slot and h.cause = 'unavailable'
            order by h.slot, h.topic limit 1) u))) t
cross join lateral (
    with recursive g as (
        (select h.partition_count, h.partition, h.id from outbox_held h
         where h.slot = t.slot and h.topic = t.topic and h.cause = 'unavailable'
         order by h.slot, h.topic, h.partition_count, h.partition, h.id limit 1)
        union all
        select n.* from g cross join lateral (
            select h.partition_count, h.partition, h.id from outbox_held h
            where h.slot = t.slot and h.topic = t.topic and h.cause = 'unavailable'
              and (h.partition_count, h.partition) > (g.partition_count, g.partition)
            order by h.slot, h.topic, h.partition_count, h.partition, h.id limit 1) n)
    select * from g) g";

type Columns = (
    BigInt,
    Nullable<SmallInt>,
    Nullable<Integer>,
    Nullable<Xid>,
    Nullable<Tid>,
    Nullable<SqlUuid>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<SmallInt>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Json>,
    Nullable<Bytea>,
    Nullable<Jsonb>,
    Nullable<Timestamptz>,
    Nullable<BigInt>,
    Nullable<Integer>,
    Nullable<Integer>,
);

/// A row of any of the parts.
#[derive(Queryable)]
struct Row {
    id: i64,
    slot: Option<i16>,
    bytes: Option<i32>,
    writer: Option<Xmin>,
    place: Option<Ctid>,
    event_id: Option<Uuid>,
    topic: Option<String>,
    key: Option<String>,
    event_type: Option<String>,
    schema_version: Option<i16>,
    source: Option<String>,
    content_type: Option<ContentType>,
    payload: Option<JsonText>,
    payload_bytes: Option<Vec<u8>>,
    headers: Option<TextHeaders>,
    created_at: Option<OffsetDateTime>,
    dead_id: Option<i64>,
    partition_count: Option<i32>,
    partition: Option<i32>,
}

/// Limits what each later statement of this session may take: a read may need longer than what a lease
/// allows, since it holds no lock.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn limit_statements(
    conn: &mut AsyncPgConnection,
    limit: Duration,
) -> Result<(), StorageError> {
    let (statement_ms, transaction_ms) = (limit.as_millis(), limit.as_millis() + 1_000);
    let sql = format!(
        "set statement_timeout = {statement_ms}; \
         select set_config(name, '{transaction_ms}', false) from pg_settings \
         where name = 'transaction_timeout';"
    );
    Ok(conn.batch_execute(&sql).await?)
}

/// Reads the lowest pending events of each of `slots`, which must have nothing in flight. Where not
/// all find room, those of the first slots do. Events that name no source get `default_source`.
///
/// # Errors
/// When Postgres cannot be asked, or a row holds what no writer can write.
pub async fn read_pending(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
    limits: BatchLimits,
    default_source: &str,
) -> Result<Batch, StorageError> {
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    let statement = cached_rows::<Columns>(READ_PENDING)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<BigInt, _>(limits.events)
        .bind::<BigInt, _>(limits.bytes)
        .bind::<BigInt, _>(limits.total_bytes)
        .bind::<Text, _>(default_source)
        .bind::<BigInt, _>(limits.event_bytes);
    let (mut pending, mut events, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    let (mut blocked, mut too_large) = (HashMap::new(), Vec::new());
    // Taken as they arrive: all of them at once are several times as large as what they become.
    let mut rows = statement.load_stream::<Row>(conn).await?;
    while let Some(row) = rows.try_next().await? {
        let id = row.id;
        if let Some(read) = pending_row(&row)? {
            if i64::from(read.bytes) > limits.event_bytes {
                too_large.push(id);
            }
            pending.push((id, read));
        } else if let Some(dead) = row.dead_id {
            blocked.insert(id, dead);
        } else if let Some(destination) = destination_of(&row) {
            groups.push(group(row, destination)?);
        } else if let Some(event) = event_of(row) {
            events.push((id, event));
        }
    }
    drop(rows);
    let outlines = outlines(conn, too_large).await?;
    Ok(joined(pending, events, &blocked, groups, outlines))
}

/// The topics and keys of events whose contents are not read.
async fn outlines(
    conn: &mut AsyncPgConnection,
    ids: Vec<i64>,
) -> Result<HashMap<i64, TopicKey>, StorageError> {
    #[derive(QueryableByName)]
    struct Outline {
        #[diesel(sql_type = BigInt)]
        id: i64,
        #[diesel(embed)]
        of: TopicKey,
    }
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<Outline> =
        sql_query("select e.id, e.topic, e.key from outbox_event e where e.id = any($1)")
            .bind::<Array<BigInt>, _>(ids)
            .load(conn)
            .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.of)).collect())
}

/// `None` for a row of another part.
fn pending_row(row: &Row) -> Result<Option<PendingRow>, StorageError> {
    let (Some(slot), Some(bytes), Some(writer), Some(place)) =
        (row.slot, row.bytes, row.writer, row.place)
    else {
        return Ok(None);
    };
    let slot = slot_from(slot, "outbox_pending.slot")?;
    let version = RowVersion {
        xmin: writer,
        ctid: place,
    };
    Ok(Some(PendingRow {
        slot,
        bytes,
        version,
    }))
}

fn destination_of(row: &Row) -> Option<Destination> {
    Some(Destination {
        partition_count: row.partition_count?,
        partition: row.partition?,
    })
}

fn group(row: Row, destination: Destination) -> Result<UnavailableGroup, StorageError> {
    Ok(UnavailableGroup {
        slot: slot_from(row.slot.unwrap_or_default(), "outbox_held.slot")?,
        topic: row.topic.unwrap_or_default(),
        destination,
        lowest: row.id,
    })
}

fn event_of(row: Row) -> Option<OutboxEvent> {
    Some(OutboxEvent {
        event_id: row.event_id?.into(),
        topic: row.topic?,
        key: row.key?,
        event_type: row.event_type?,
        schema_version: row.schema_version?,
        source: row.source?,
        content: content_from(row.content_type, row.payload, row.payload_bytes),
        headers: row.headers?.0,
        created_at: row.created_at?,
    })
}

/// The events behind an id, whatever their state, with their contents, ascending. What a reader
/// costs that moves nothing: for measuring.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn read_events_after(
    conn: &mut AsyncPgConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, OutboxEvent)>, StorageError> {
    let rows: Vec<EventColumns> = sql_query(
        "select id, event_id, topic, key, event_type, schema_version, \
         coalesce(source, '') as source, content_type, payload, payload_bytes, \
         headers, created_at from outbox_event where id > $1 order by id limit $2",
    )
    .bind::<BigInt, _>(after)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((row.id, event_from(row)?)))
        .collect())
}
