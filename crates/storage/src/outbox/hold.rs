//! Holding events back: a decision, taken under the lease and under the lock of each key.
//!
//! What turns out not to be so any more (the event was settled, discarded, replayed, the slot lost)
//! just stays pending, and is read again.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use domain::Slot;

use super::key_lock::lock_keys;
use crate::error::StorageError;
use crate::lease::{Claim, MemberId};
use crate::xid::{RowVersion, Writer, Xid};

/// Why an event is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldCause {
    /// It can never be produced.
    Dead,
    /// Its partition cannot be written.
    Unavailable,
    /// An earlier event of its topic and key is held; it follows that one.
    Parked,
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
    pub cause: HoldCause,
    /// What Kafka or the client said.
    pub error: Option<String>,
    /// Produce requests that carried it.
    pub attempts: i32,
}

/// A cause in the words of the table, and how many events are held for it now.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Held {
    #[diesel(sql_type = Text)]
    pub cause: String,
    #[diesel(sql_type = BigInt)]
    pub events: i64,
}

/// Units still owned under their epochs, kept from changing hands until the transaction ends.
const OWNED: &str = "\
select l.unit, l.epoch from lease l
join unnest($3, $4) d(unit, epoch) on d.unit = l.unit and d.epoch = l.epoch
where l.scope = $1 and l.owner = $2 order by l.unit for share of l";

/// Dead and unavailable ones: still pending, in the version that was read. An id is held already,
/// or pending in two slots, when somebody put it there by hand: the latest word on it counts.
const HOLD_HEADS: &str = "\
with moved as (
    delete from outbox_pending p
    using unnest($1, $2, $3, $4, $5, $6, $7, $8)
        d(slot, id, version, topic, key, cause, error, attempts)
    where p.slot = d.slot and p.id = d.id and p.xmin = d.version
    returning p.slot, p.id, d.topic, d.key, d.cause, d.error, d.attempts),
held as (
    insert into outbox_held (id, slot, topic, key, cause, error, attempts)
    select distinct on (id) id, slot, topic, key, cause, error, attempts from moved
    on conflict (id) do update set slot = excluded.slot, topic = excluded.topic,
        key = excluded.key, cause = excluded.cause, error = excluded.error,
        attempts = excluded.attempts, behind = null, held_at = excluded.held_at,
        discarded_at = null
    returning cause)
select cause, count(*) as events from held group by cause";

/// Parked ones: still pending, and still with a held event of their key before them. Ids that are
/// held already: as above.
const HOLD_PARKED: &str = "\
with moved as (
    delete from outbox_pending p
    using unnest($1, $2, $3, $4, $5) d(slot, id, version, topic, key)
    cross join lateral (
        select h.id, h.cause from outbox_held h
        where h.topic = d.topic and h.key = d.key and h.id < d.id and h.discarded_at is null
        order by h.id limit 1) front
    where p.slot = d.slot and p.id = d.id and p.xmin = d.version
    returning p.slot, p.id, d.topic, d.key, front.id as behind, front.cause as front),
held as (
    insert into outbox_held (id, slot, topic, key, cause, behind)
    select distinct on (id) id, slot, topic, key,
           case front when 'unavailable' then 'unavailable' else 'behind' end, behind
    from moved
    on conflict (id) do update set slot = excluded.slot, topic = excluded.topic,
        key = excluded.key, cause = excluded.cause, error = null, attempts = null,
        behind = excluded.behind, held_at = excluded.held_at, discarded_at = null
    returning cause)
select cause, count(*) as events from held group by cause";

/// Holds what is still so, all or none of it; returns how many events are held, by cause.
///
/// # Errors
/// When Postgres cannot be asked or a key's lock is not to be had soon; nothing is held then.
pub async fn hold(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    holds: &[Hold],
) -> Result<Vec<Held>, StorageError> {
    conn.transaction(async |conn| {
        let keys: Vec<(&str, &str)> = holds
            .iter()
            .map(|hold| (hold.topic.as_str(), hold.key.as_str()))
            .collect();
        lock_keys(conn, &keys).await?;
        let owned = owned(conn, scope, member, holds).await?;
        let mut ours: Vec<&Hold> = holds
            .iter()
            .filter(|hold| {
                let unit = i32::from(hold.slot.number());
                owned.contains(&(unit, hold.epoch))
            })
            .collect();
        ours.sort_unstable_by_key(|hold| hold.id);
        let (parked, heads): (Vec<&Hold>, Vec<&Hold>) = ours
            .into_iter()
            .partition(|hold| hold.cause == HoldCause::Parked);
        let mut held = hold_heads(conn, &heads).await?;
        held.extend(hold_parked(conn, &parked).await?);
        Ok(held)
    })
    .await
}

/// Which of the slots are still owned under the epochs the holds name.
async fn owned(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    holds: &[Hold],
) -> Result<Vec<(i32, i64)>, StorageError> {
    let mut wanted: Vec<(i32, i64)> = holds
        .iter()
        .map(|hold| (hold.slot.number().into(), hold.epoch))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    owned_units(conn, scope, member, &wanted).await
}

/// Which of these (unit, epoch) the member still owns; they stay so until the transaction ends.
pub(super) async fn owned_units(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    wanted: &[(i32, i64)],
) -> Result<Vec<(i32, i64)>, StorageError> {
    let (units, epochs): (Vec<i32>, Vec<i64>) = wanted.iter().copied().unzip();
    let owned: Vec<Claim> = sql_query(OWNED)
        .bind::<Text, _>(scope)
        .bind::<SqlUuid, _>(member.as_uuid())
        .bind::<Array<Integer>, _>(units)
        .bind::<Array<BigInt>, _>(epochs)
        .load(conn)
        .await?;
    Ok(owned.iter().map(|c| (c.unit, c.epoch)).collect())
}

async fn hold_heads(
    conn: &mut AsyncPgConnection,
    heads: &[&Hold],
) -> Result<Vec<Held>, StorageError> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let cause = |hold: &&Hold| match hold.cause {
        HoldCause::Dead => "dead",
        HoldCause::Unavailable | HoldCause::Parked => "unavailable",
    };
    let columns = Columns::of(heads);
    Ok(sql_query(HOLD_HEADS)
        .bind::<Array<SmallInt>, _>(columns.slots)
        .bind::<Array<BigInt>, _>(columns.ids)
        .bind::<Array<Xid>, _>(columns.versions)
        .bind::<Array<Text>, _>(columns.topics)
        .bind::<Array<Text>, _>(columns.keys)
        .bind::<Array<Text>, _>(heads.iter().map(cause).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            heads.iter().map(|h| h.error.as_deref()).collect::<Vec<_>>(),
        )
        .bind::<Array<Integer>, _>(heads.iter().map(|h| h.attempts).collect::<Vec<_>>())
        .load(conn)
        .await?)
}

async fn hold_parked(
    conn: &mut AsyncPgConnection,
    parked: &[&Hold],
) -> Result<Vec<Held>, StorageError> {
    if parked.is_empty() {
        return Ok(Vec::new());
    }
    let columns = Columns::of(parked);
    Ok(sql_query(HOLD_PARKED)
        .bind::<Array<SmallInt>, _>(columns.slots)
        .bind::<Array<BigInt>, _>(columns.ids)
        .bind::<Array<Xid>, _>(columns.versions)
        .bind::<Array<Text>, _>(columns.topics)
        .bind::<Array<Text>, _>(columns.keys)
        .load(conn)
        .await?)
}

/// The columns both statements take.
struct Columns<'a> {
    slots: Vec<i16>,
    ids: Vec<i64>,
    versions: Vec<Writer>,
    topics: Vec<&'a str>,
    keys: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(holds: &[&'a Hold]) -> Self {
        Self {
            slots: holds.iter().map(|h| h.slot.number()).collect(),
            ids: holds.iter().map(|h| h.id).collect(),
            versions: holds.iter().map(|h| h.version.writer).collect(),
            topics: holds.iter().map(|h| h.topic.as_str()).collect(),
            keys: holds.iter().map(|h| h.key.as_str()).collect(),
        }
    }
}
