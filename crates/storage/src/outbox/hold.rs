//! Holding events back: a decision, taken under the lease. What concerns a key (dead events, and
//! those blocked by one) is decided under the key's lock too, which commands take as well.
//!
//! What turns out not to be so any more (the event was settled, discarded, replayed, the slot lost)
//! just stays pending, and is read again.

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use domain::Slot;

use super::key_lock::lock_keys;
use crate::lease::MemberId;
use crate::pg::error::StorageError;
use crate::pg::name::named;
use crate::pg::xid::{RowVersion, Xid, Xmin};

/// Why an event is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldCause {
    /// It can never be produced.
    Dead,
    /// Its partition cannot be written.
    Unavailable,
    /// An earlier event of its topic and key is dead; it follows that one.
    Blocked,
}

impl HoldCause {
    const ALL: [Self; 3] = [Self::Dead, Self::Unavailable, Self::Blocked];

    /// As `outbox_held.cause` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Unavailable => "unavailable",
            Self::Blocked => "blocked",
        }
    }
}

impl FromSql<Text, Pg> for HoldCause {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        named(value, "outbox_held.cause", &Self::ALL, Self::as_str)
    }
}

/// Where an event was routed: a partition, under the number of partitions that its topic had then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, QueryableByName)]
pub struct Destination {
    #[diesel(sql_type = Integer)]
    pub partition_count: i32,
    #[diesel(sql_type = Integer)]
    pub partition: i32,
}

impl Destination {
    /// Of an event whose topic does not exist.
    pub const NOWHERE: Self = Self {
        partition_count: 0,
        partition: -1,
    };
}

/// One event to be held.
#[derive(Debug, Clone)]
pub struct Hold {
    pub slot: Slot,
    /// The epoch its slot was owned under when it was read.
    pub epoch: i64,
    pub id: i64,
    pub version: RowVersion,
    pub topic: String,
    pub key: String,
    pub destination: Destination,
    pub cause: HoldCause,
    /// What Kafka or the client said.
    pub error: Option<String>,
    /// Produce requests that carried it.
    pub attempts: i32,
}

/// A cause, and how many events are held for it now.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct HeldEvents {
    #[diesel(sql_type = Text)]
    pub cause: HoldCause,
    #[diesel(sql_type = BigInt)]
    pub events: i64,
}

/// Units still owned under their epochs, kept from changing hands until the transaction ends.
macro_rules! owned {
    () => {
        "\
with owned as materialized (
    select l.unit, l.epoch from lease l
    join unnest($3, $4) o(unit, epoch) on o.unit = l.unit and o.epoch = l.epoch
    where l.scope = $1 and l.owner = $2 order by l.unit for share of l),"
    };
}

/// Dead and unavailable ones: still pending, in the version that was read. An id is held already,
/// or pending in two slots, when somebody put it there by hand: the latest word on it counts.
pub const HOLD: &str = concat!(
    owned!(),
    "
moved as (
    delete from outbox_pending p
    using unnest($5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        d(slot, epoch, id, version, topic, key, partition_count, partition, cause, error, attempts),
        owned o
    where o.unit = d.slot and o.epoch = d.epoch
      and p.slot = d.slot and p.id = d.id and p.xmin = d.version
    returning p.slot, p.id, p.bytes, d.topic, d.key, d.partition_count, d.partition, d.cause,
              d.error, d.attempts),
held as (
    insert into outbox_held (id, slot, topic, key, cause, partition_count, partition, bytes, error,
                             attempts)
    select distinct on (id) id, slot, topic, key, cause, partition_count, partition, bytes, error,
           attempts
    from moved
    on conflict (id) do update set slot = excluded.slot, topic = excluded.topic,
        key = excluded.key, cause = excluded.cause, partition_count = excluded.partition_count,
        partition = excluded.partition, bytes = excluded.bytes, error = excluded.error,
        attempts = excluded.attempts, blocked_by = null, held_at = excluded.held_at,
        discarded_at = null
    returning cause)
select cause, count(*) as events from held group by cause"
);

/// Blocked ones: still pending, and still with a dead event of their key before them. Ids that are
/// held already: as above.
const HOLD_BLOCKED: &str = concat!(
    owned!(),
    "
moved as (
    delete from outbox_pending p
    using unnest($5, $6, $7, $8, $9, $10, $11, $12)
        d(slot, epoch, id, version, topic, key, partition_count, partition)
    join owned o on o.unit = d.slot and o.epoch = d.epoch
    cross join lateral (
        select h.id from outbox_held h
        where h.topic = d.topic and h.key = d.key and h.id < d.id
          and h.cause <> 'unavailable' and h.discarded_at is null
        order by h.topic, h.key, h.id limit 1) front
    where p.slot = d.slot and p.id = d.id and p.xmin = d.version
    returning p.slot, p.id, p.bytes, d.topic, d.key, d.partition_count, d.partition,
              front.id as blocked_by),
held as (
    insert into outbox_held (id, slot, topic, key, cause, partition_count, partition, bytes, blocked_by)
    select distinct on (id) id, slot, topic, key, 'blocked', partition_count, partition, bytes, blocked_by
    from moved
    on conflict (id) do update set slot = excluded.slot, topic = excluded.topic,
        key = excluded.key, cause = excluded.cause, partition_count = excluded.partition_count,
        partition = excluded.partition, bytes = excluded.bytes, error = null, attempts = null,
        blocked_by = excluded.blocked_by, held_at = excluded.held_at, discarded_at = null
    returning cause)
select cause, count(*) as events from held group by cause"
);

/// Holds what is still so, all or none of it; returns how many events are held, by cause.
///
/// # Errors
/// When Postgres cannot be asked or a key's lock is not to be had soon; nothing is held then, unless
/// the connection broke while committing: the next read tells.
pub async fn hold(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    holds: &[Hold],
) -> Result<Vec<HeldEvents>, StorageError> {
    let mut holds: Vec<&Hold> = holds.iter().collect();
    holds.sort_unstable_by_key(|hold| hold.id);
    let keys: Vec<(&str, &str)> = holds
        .iter()
        .filter(|hold| hold.cause != HoldCause::Unavailable)
        .map(|hold| (hold.topic.as_str(), hold.key.as_str()))
        .collect();
    if keys.is_empty() {
        return move_to_held(conn, scope, member, &holds).await;
    }
    conn.transaction(async |conn| {
        lock_keys(conn, &keys).await?;
        let (blocked, others): (Vec<&Hold>, Vec<&Hold>) = holds
            .into_iter()
            .partition(|hold| hold.cause == HoldCause::Blocked);
        let mut held = move_to_held(conn, scope, member, &others).await?;
        held.extend(move_blocked_to_held(conn, scope, member, &blocked).await?);
        Ok(held)
    })
    .await
}

async fn move_to_held(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    holds: &[&Hold],
) -> Result<Vec<HeldEvents>, StorageError> {
    if holds.is_empty() {
        return Ok(Vec::new());
    }
    let causes: Vec<_> = holds.iter().map(|hold| hold.cause.as_str()).collect();
    let columns = Columns::of(holds);
    let errors: Vec<Option<&str>> = holds.iter().map(|h| h.error.as_deref()).collect();
    Ok(sql_query(HOLD)
        .bind::<Text, _>(scope)
        .bind::<SqlUuid, _>(member.as_uuid())
        .bind::<Array<Integer>, _>(columns.units)
        .bind::<Array<BigInt>, _>(columns.unit_epochs)
        .bind::<Array<SmallInt>, _>(columns.slots)
        .bind::<Array<BigInt>, _>(columns.epochs)
        .bind::<Array<BigInt>, _>(columns.ids)
        .bind::<Array<Xid>, _>(columns.versions)
        .bind::<Array<Text>, _>(columns.topics)
        .bind::<Array<Text>, _>(columns.keys)
        .bind::<Array<Integer>, _>(columns.partition_counts)
        .bind::<Array<Integer>, _>(columns.partitions)
        .bind::<Array<Text>, _>(causes)
        .bind::<Array<Nullable<Text>>, _>(errors)
        .bind::<Array<Integer>, _>(holds.iter().map(|h| h.attempts).collect::<Vec<_>>())
        .load(conn)
        .await?)
}

async fn move_blocked_to_held(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    blocked: &[&Hold],
) -> Result<Vec<HeldEvents>, StorageError> {
    if blocked.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(blocked);
    Ok(sql_query(HOLD_BLOCKED)
        .bind::<Text, _>(scope)
        .bind::<SqlUuid, _>(member.as_uuid())
        .bind::<Array<Integer>, _>(columns.units)
        .bind::<Array<BigInt>, _>(columns.unit_epochs)
        .bind::<Array<SmallInt>, _>(columns.slots)
        .bind::<Array<BigInt>, _>(columns.epochs)
        .bind::<Array<BigInt>, _>(columns.ids)
        .bind::<Array<Xid>, _>(columns.versions)
        .bind::<Array<Text>, _>(columns.topics)
        .bind::<Array<Text>, _>(columns.keys)
        .bind::<Array<Integer>, _>(columns.partition_counts)
        .bind::<Array<Integer>, _>(columns.partitions)
        .load(conn)
        .await?)
}

/// The columns both statements take.
struct Columns<'a> {
    /// Each slot and epoch once.
    units: Vec<i32>,
    unit_epochs: Vec<i64>,
    slots: Vec<i16>,
    epochs: Vec<i64>,
    ids: Vec<i64>,
    versions: Vec<Xmin>,
    topics: Vec<&'a str>,
    keys: Vec<&'a str>,
    partition_counts: Vec<i32>,
    partitions: Vec<i32>,
}

impl<'a> Columns<'a> {
    fn of(holds: &[&'a Hold]) -> Self {
        let mut units: Vec<(i32, i64)> = holds
            .iter()
            .map(|h| (h.slot.number().into(), h.epoch))
            .collect();
        units.sort_unstable();
        units.dedup();
        let (units, unit_epochs) = units.into_iter().unzip();
        Self {
            units,
            unit_epochs,
            slots: holds.iter().map(|h| h.slot.number()).collect(),
            epochs: holds.iter().map(|h| h.epoch).collect(),
            ids: holds.iter().map(|h| h.id).collect(),
            versions: holds.iter().map(|h| h.version.xmin).collect(),
            topics: holds.iter().map(|h| h.topic.as_str()).collect(),
            keys: holds.iter().map(|h| h.key.as_str()).collect(),
            partition_counts: holds
                .iter()
                .map(|h| h.destination.partition_count)
                .collect(),
            partitions: holds.iter().map(|h| h.destination.partition).collect(),
        }
    }
}
