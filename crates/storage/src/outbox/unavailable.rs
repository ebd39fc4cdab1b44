//! Events of partitions that cannot be written: finding them, recording those that got through
//! after all, moving the others back.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Integer, SmallInt, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use domain::{OutboxEvent, Slot};

use super::columns::{EventColumns, event_from};
use super::hold::owned_units;
use super::key_lock::lock_keys;
use super::redrive::event_bytes;
use crate::error::StorageError;
use crate::lease::MemberId;

/// An unavailable event, without its contents.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Unavailable {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Text)]
    pub key: String,
    /// A dead event of its key is held before it: it must wait for that one instead.
    #[diesel(sql_type = Bool)]
    pub behind_dead: bool,
}

/// The unavailable events of a slot behind `after`, ascending, at most `limit`.
/// Plan: a walk along `outbox_held_unavailable`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unavailable(
    conn: &mut AsyncPgConnection,
    slot: Slot,
    after: i64,
    limit: i64,
) -> Result<Vec<Unavailable>, StorageError> {
    Ok(sql_query(
        "select h.id, h.topic, h.key, exists (\
             select from outbox_held d where d.topic = h.topic and d.key = h.key and d.id < h.id \
             and d.discarded_at is null and d.cause <> 'unavailable') as behind_dead \
         from outbox_held h where h.slot = $1 and h.cause = 'unavailable' and h.id > $2 \
         order by h.slot, h.id limit $3",
    )
    .bind::<SmallInt, _>(slot.number())
    .bind::<BigInt, _>(after)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?)
}

/// An unavailable event that may be sent as a probe.
#[derive(Debug)]
pub struct Head {
    /// It does not wait for a dead one.
    pub of: Unavailable,
    /// Of key, payload and headers.
    pub bytes: i64,
    /// `None` when it is too large to be read.
    pub event: Option<OutboxEvent>,
}

/// An event before which one of its key is pending (moved back before it, or still in flight) must
/// not overtake that one. Ids of one slot stand in for the key: what is pending is younger but for
/// moments. Nor may it overtake an unavailable one that is not among those asked for.
///
/// The sizes are looked at first, so that what is returned is bounded in bytes: events may be large.
/// That of a payload is known without its being read.
const PROBE_EVENTS: &str = concat!(
    "\
with head as (
    select h.id, s.bytes, sum(s.bytes) over (order by h.id) - s.bytes as bytes_before
    from outbox_held h join outbox_event e using (id)
    cross join lateral (select (",
    event_bytes!(),
    ")::bigint as bytes) s
    where h.id = any($2) and h.cause = 'unavailable'
      and not exists (select from outbox_pending p where p.slot = $1 and p.id < h.id)
      and not exists (select from outbox_held d where d.topic = h.topic and d.key = h.key
                      and d.id < h.id and d.discarded_at is null
                      and (d.cause <> 'unavailable' or d.id <> all($2))))
select e.id, e.topic, e.key, false as behind_dead, head.bytes,
       e.event_id, e.event_type, e.schema_version, e.created_at,
       case when head.bytes <= $4 then e.payload end as payload,
       case when head.bytes <= $4 then e.headers end as headers
from head join outbox_event e using (id) where head.bytes_before < $3
order by e.id"
);

/// How much is read of what may be a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeLimits {
    /// Bytes of keys, payloads and headers; the event that crosses it is still taken.
    pub bytes: i64,
    /// Payload and headers of an event with more bytes than this are not read.
    pub event_bytes: i64,
}

/// Those of a slot's unavailable events that may be sent as a probe, with their contents, ascending
/// by id. The sizes of all `ids` are looked at, so there should not be many.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn probe_events(
    conn: &mut AsyncPgConnection,
    slot: Slot,
    ids: &[i64],
    limits: ProbeLimits,
) -> Result<Vec<Head>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(embed)]
        of: Unavailable,
        #[diesel(sql_type = BigInt)]
        bytes: i64,
        #[diesel(embed)]
        event: EventColumns,
    }
    let rows: Vec<Row> = sql_query(PROBE_EVENTS)
        .bind::<SmallInt, _>(slot.number())
        .bind::<Array<BigInt>, _>(ids)
        .bind::<BigInt, _>(limits.bytes)
        .bind::<BigInt, _>(limits.event_bytes)
        .load(conn)
        .await?;
    let heads = rows.into_iter().map(|row| Head {
        of: row.of,
        bytes: row.bytes,
        event: event_from(row.event),
    });
    Ok(heads.collect())
}

/// What was held behind it as unavailable is found to be behind a dead one from now on.
const BURY: &str = "\
update outbox_held h set cause = 'dead', error = $2, attempts = 0, behind = null,
                         held_at = clock_timestamp()
where h.id = $1 and h.cause = 'unavailable'";

/// An unavailable event of an owned slot turned out to be one that can never be produced. False when
/// the slot is owned no more, or the event is unavailable no more.
///
/// # Errors
/// When Postgres cannot be asked or the key's lock is not to be had soon; nothing changed then.
pub async fn bury_unavailable(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    (slot, epoch): (Slot, i64),
    event: &Unavailable,
    error: &str,
) -> Result<bool, StorageError> {
    conn.transaction(async |conn| {
        lock_keys(conn, &[(&event.topic, &event.key)]).await?;
        let unit = (i32::from(slot.number()), epoch);
        if owned_units(conn, scope, member, &[unit]).await?.is_empty() {
            return Ok(false);
        }
        let buried = sql_query(BURY)
            .bind::<BigInt, _>(event.id)
            .bind::<Text, _>(error)
            .execute(conn)
            .await?;
        Ok(buried > 0)
    })
    .await
}

const SETTLE_HELD: &str = "\
with moved as (
    delete from outbox_held h using unnest($1, $2) d(id, kafka_offset)
    where h.id = d.id and h.cause = 'unavailable' returning h.id, d.kafka_offset)
insert into outbox_published (id, kafka_partition, kafka_offset)
select id, $3, kafka_offset from moved on conflict (id) do nothing";

/// Records that Kafka took unavailable events after all: a fact. Returns how many moved.
///
/// # Errors
/// When Postgres cannot be asked. Safe to repeat.
pub async fn settle_unavailable(
    conn: &mut AsyncPgConnection,
    partition: i32,
    events: &[(i64, i64)],
) -> Result<usize, StorageError> {
    let (ids, offsets): (Vec<i64>, Vec<i64>) = events.iter().copied().unzip();
    Ok(sql_query(SETTLE_HELD)
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<BigInt>, _>(offsets)
        .bind::<Integer, _>(partition)
        .execute(conn)
        .await?)
}

/// What is pending already, because somebody wrote the id anew by hand, stays as it is.
const MOVE_BACK: &str = concat!(
    "with moved as (
        delete from outbox_held h where h.id = any($1) and h.cause = 'unavailable'
        returning h.slot, h.id)
    insert into outbox_pending (slot, id, bytes)
    select m.slot, m.id, ",
    event_bytes!(),
    " from moved m join outbox_event e using (id) on conflict (slot, id) do nothing"
);

/// Moves unavailable events of an owned slot back to pending; returns how many moved. Call it with
/// the lowest ids first, so that keys come free from their front.
///
/// # Errors
/// When Postgres cannot be asked or a key's lock is not to be had soon; nothing moves then.
pub async fn move_back(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    (slot, epoch): (Slot, i64),
    events: &[Unavailable],
) -> Result<usize, StorageError> {
    conn.transaction(async |conn| {
        let keys: Vec<(&str, &str)> = events
            .iter()
            .map(|event| (event.topic.as_str(), event.key.as_str()))
            .collect();
        lock_keys(conn, &keys).await?;
        let unit = (i32::from(slot.number()), epoch);
        if owned_units(conn, scope, member, &[unit]).await?.is_empty() {
            return Ok(0);
        }
        let ids: Vec<i64> = events.iter().map(|event| event.id).collect();
        let moved = sql_query(MOVE_BACK)
            .bind::<Array<BigInt>, _>(ids)
            .execute(conn)
            .await?;
        Ok(moved)
    })
    .await
}
