//! Reading what is pending, for all idle slots at once.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{
    Array, BigInt, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::{OutboxEvent, Slot};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::cached::cached;
use crate::error::StorageError;
use crate::xid::{RowVersion, Xid};

/// How much one read takes of each slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Events per slot.
    pub events: i64,
    /// Bytes of keys, payloads and headers per slot; the event that crosses it is still taken.
    pub bytes: i64,
}

/// A pending event, with what settling it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingEvent {
    pub slot: Slot,
    /// Order of events within a key.
    pub id: i64,
    /// The version of its row in `outbox_pending` that was read.
    pub version: RowVersion,
    /// As the trigger counted: key, payload and headers.
    pub bytes: i32,
    pub event: OutboxEvent,
    /// Set when an earlier event of its topic and key is held: this one must follow it.
    pub parked: Option<Parked>,
}

/// Why an event must not go out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The lowest held event of its topic and key.
    pub behind: i64,
    /// The cause that one is held for.
    pub cause: String,
}

/// Plan: per slot one walk along `outbox_pending_pkey`, then one look-up by primary key per event
/// and one in `outbox_held_key`. The `order by slot, id` is what makes the planner walk the index
/// instead of sorting; the session's settings (`Session::with_index_plans`) do the rest.
pub const READ_PENDING: &str = "\
select n.slot, n.id, n.bytes, n.version, e.event_id, e.topic, e.key, e.event_type,
       e.schema_version, e.payload::text as payload, e.headers, e.created_at,
       held.id as held_id, held.cause as held_cause
from unnest(?) s(slot)
cross join lateral (
    select q.slot, q.id, q.bytes, q.version, sum(q.bytes) over (order by q.id) as total
    from (select p.slot, p.id, p.bytes, p.xmin as version from outbox_pending p
          where p.slot = s.slot order by p.slot, p.id limit ?) q) n
left join outbox_event e on e.id = n.id
left join lateral (
    select h.id, h.cause from outbox_held h
    where h.topic = e.topic and h.key = e.key and h.id < e.id and h.discarded_at is null
    order by h.id limit 1) held on true
where n.total - n.bytes < ?
order by n.id";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SmallInt)]
    slot: i16,
    #[diesel(sql_type = Integer)]
    bytes: i32,
    #[diesel(sql_type = Xid)]
    version: RowVersion,
    #[diesel(sql_type = Nullable<BigInt>)]
    held_id: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    held_cause: Option<String>,
    #[diesel(embed)]
    event: EventColumns,
}

/// What one read found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Ascending by id.
    pub events: Vec<PendingEvent>,
    /// Pending ids without an event: somebody deleted from `outbox_event` by hand.
    pub orphans: Vec<(Slot, i64)>,
}

/// Reads the lowest pending events of each of `slots`, which must have nothing in flight.
///
/// # Errors
/// When Postgres cannot be asked, or a row holds what no writer can write.
pub async fn read_pending(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
    limits: BatchLimits,
) -> Result<Batch, StorageError> {
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    let rows: Vec<Row> = cached(READ_PENDING)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<BigInt, _>(limits.events)
        .bind::<BigInt, _>(limits.bytes)
        .load(conn)
        .await?;
    let mut batch = Batch::default();
    for row in rows {
        let slot = Slot::try_from(i32::from(row.slot)).map_err(|e| StorageError::Unreadable {
            column: "outbox_pending.slot",
            reason: e.to_string(),
        })?;
        let id = row.event.id;
        let Some(event) = event_from(row.event) else {
            batch.orphans.push((slot, id));
            continue;
        };
        batch.events.push(PendingEvent {
            slot,
            id,
            version: row.version,
            bytes: row.bytes,
            event,
            parked: row
                .held_id
                .zip(row.held_cause)
                .map(|(behind, cause)| Parked { behind, cause }),
        });
    }
    Ok(batch)
}

/// The columns of `outbox_event`; all but the id are null where a left join found none.
#[derive(QueryableByName)]
pub(super) struct EventColumns {
    #[diesel(sql_type = BigInt)]
    pub(super) id: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    event_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    topic: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    key: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    event_type: Option<String>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    schema_version: Option<i16>,
    #[diesel(sql_type = Nullable<Text>)]
    payload: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    headers: Option<serde_json::Value>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    created_at: Option<OffsetDateTime>,
}

/// `None` when there is no event.
pub(super) fn event_from(row: EventColumns) -> Option<OutboxEvent> {
    Some(OutboxEvent {
        event_id: row.event_id?.into(),
        topic: row.topic?,
        key: row.key?,
        event_type: row.event_type?,
        schema_version: row.schema_version?,
        payload: row.payload?,
        headers: row.headers.map(text_headers)?,
        created_at: row.created_at?,
    })
}

/// Foreign writers may put any JSON value behind a header's name; all but text goes out as JSON.
fn text_headers(headers: serde_json::Value) -> BTreeMap<String, String> {
    let serde_json::Value::Object(headers) = headers else {
        return BTreeMap::new();
    };
    headers
        .into_iter()
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => (name, text),
            other => (name, other.to_string()),
        })
        .collect()
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
        "select id, event_id, topic, key, event_type, schema_version, payload::text as payload, \
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

/// The lowest and the highest pending events of each slot. Plan: one walk along
/// `outbox_pending_pkey` from each end.
const ENDS: &str = "\
select distinct e.topic, e.key
from unnest($1) s(slot)
cross join lateral (
    (select p.id from outbox_pending p where p.slot = s.slot order by p.slot, p.id limit $2)
    union all
    (select p.id from outbox_pending p where p.slot = s.slot
     order by p.slot desc, p.id desc limit $2)) n
join outbox_event e on e.id = n.id";

/// The topics and keys among the pending events at both ends of each slot, in flight or not: who
/// waits behind a partition that does not move. At most `per_end` events of each end are looked at.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn waiting_keys(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
    per_end: i64,
) -> Result<Vec<(String, String)>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        topic: String,
        #[diesel(sql_type = Text)]
        key: String,
    }
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    let rows: Vec<Row> = sql_query(ENDS)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<BigInt, _>(per_end)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.topic, row.key)).collect())
}
