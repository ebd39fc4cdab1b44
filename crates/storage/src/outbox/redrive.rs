//! Redrives and discards dead letters.
//!
//! Each is one transaction under the locks of its keys, at any moment, without a word to a relay:
//! a relay that read an event as blocked looks again, under the same lock, before it holds it.
//! What moves back is pending like any other event: if something before it is still held, the
//! relay holds it again. So moving too much back is harmless, and leaving an event blocked by
//! nothing is the one mistake to avoid. Unavailable events are the relay's own business. What is
//! pending already, because somebody inserted a held id by hand, stays as it is.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};

use super::key_lock::lock_keys;
use crate::pg::error::StorageError;

/// A topic and a key: the unit of order, which a dead letter blocks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, QueryableByName)]
pub struct TopicKey {
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Text)]
    pub key: String,
}

/// What a redrive moved back to pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Redriven {
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    #[diesel(sql_type = BigInt)]
    pub blocked: i64,
}

/// What a discard did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Discarded {
    /// Dead letters discarded.
    #[diesel(sql_type = BigInt)]
    pub discarded: i64,
    /// Events that only they blocked, now pending again.
    #[diesel(sql_type = BigInt)]
    pub returned: i64,
}

/// The given keys.
macro_rules! keys {
    () => {
        "unnest($1, $2) k(topic, key)"
    };
}

/// A walk along `outbox_held_key`. Keys whose held events are all unavailable are left out.
const DEAD_KEYS: &str = "\
select h.topic, h.key from outbox_held h
where h.discarded_at is null and h.cause <> 'unavailable'
  and ($1 is null or (h.topic, h.key) > ($1, $2))
group by h.topic, h.key order by h.topic, h.key limit $3";

/// Keys with dead events or events behind them, beyond `after`, ascending.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn dead_keys(
    conn: &mut AsyncPgConnection,
    after: Option<&TopicKey>,
    limit: i64,
) -> Result<Vec<TopicKey>, StorageError> {
    let (topic, key) = after.map(|after| (&after.topic, &after.key)).unzip();
    Ok(sql_query(DEAD_KEYS)
        .bind::<Nullable<Text>, _>(topic)
        .bind::<Nullable<Text>, _>(key)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?)
}

/// One statement: a reader sees all of a key held or all of it pending.
const REDRIVE: &str = concat!(
    "\
with moved as (
    delete from outbox_held h using ",
    keys!(),
    "
    where h.topic = k.topic and h.key = k.key and h.discarded_at is null
      and h.cause <> 'unavailable'
    returning h.slot, h.id, h.bytes, h.cause),
queued as (
    insert into outbox_pending (slot, id, bytes) select slot, id, bytes from moved
    on conflict (slot, id) do nothing)
select count(*) filter (where cause = 'dead') as dead,
       count(*) filter (where cause = 'blocked') as blocked from moved"
);

/// Moves all dead events of these keys, and those behind them, back to pending. Ids keep the order.
///
/// # Errors
/// When Postgres cannot be asked, or the lock of a key is not to be had within half a second;
/// nothing moved then. Safe to repeat.
pub async fn redrive(
    conn: &mut AsyncPgConnection,
    keys: &[TopicKey],
) -> Result<Redriven, StorageError> {
    conn.transaction(async |conn| {
        lock_keys(conn, &borrowed(keys)).await?;
        let (topics, keys) = columns(keys);
        Ok(sql_query(REDRIVE)
            .bind::<Array<Text>, _>(topics)
            .bind::<Array<Text>, _>(keys)
            .get_result(conn)
            .await?)
    })
    .await
}

/// What [`redrive`] would do now.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn redrivable(
    conn: &mut AsyncPgConnection,
    keys: &[TopicKey],
) -> Result<Redriven, StorageError> {
    let (topics, keys) = columns(keys);
    Ok(sql_query(concat!(
        "select count(*) filter (where h.cause = 'dead') as dead, \
         count(*) filter (where h.cause = 'blocked') as blocked from outbox_held h join ",
        keys!(),
        " on h.topic = k.topic and h.key = k.key \
         where h.discarded_at is null and h.cause <> 'unavailable'"
    ))
    .bind::<Array<Text>, _>(topics)
    .bind::<Array<Text>, _>(keys)
    .get_result(conn)
    .await?)
}

const DISCARD: &str = concat!(
    "\
update outbox_held h set discarded_at = clock_timestamp() from ",
    keys!(),
    "
where h.topic = k.topic and h.key = k.key and h.discarded_at is null
  and h.cause <> 'unavailable' and h.cause = 'dead' and ($3 is null or h.id = $3)"
);

/// A key may have several dead letters (a later one was held before an earlier one committed, or a
/// replayed event became one). An event after another dead letter stays held, now blocked by that
/// one.
const RETURN: &str = concat!(
    "\
with key as (
    select k.topic, k.key, (
        select min(d.id) from outbox_held d
        where d.topic = k.topic and d.key = k.key and d.discarded_at is null
          and d.cause <> 'unavailable' and d.cause = 'dead') as first_dead from (select distinct topic, key from ",
    keys!(),
    ") k),
moved as (
    delete from outbox_held h using key
    where h.topic = key.topic and h.key = key.key and h.discarded_at is null
      and h.cause <> 'unavailable' and h.cause = 'blocked'
      and (key.first_dead is null or h.id < key.first_dead)
    returning h.slot, h.id, h.bytes),
queued as (
    insert into outbox_pending (slot, id, bytes) select slot, id, bytes from moved
    on conflict (slot, id) do nothing),
waiting as (
    update outbox_held h set blocked_by = key.first_dead from key
    where h.topic = key.topic and h.key = key.key and h.discarded_at is null
      and h.cause <> 'unavailable' and h.cause = 'blocked' and h.id > key.first_dead
      and h.blocked_by is distinct from key.first_dead)
select count(*) as returned, $3::bigint as discarded from moved"
);

/// Discards the dead letters of these keys, or only the one with the id `only`. Events that only
/// they blocked move back to pending.
///
/// # Errors
/// When Postgres cannot be asked, or the lock of a key is not to be had within half a second;
/// nothing changed then. Safe to repeat.
pub async fn discard(
    conn: &mut AsyncPgConnection,
    keys: &[TopicKey],
    only: Option<i64>,
) -> Result<Discarded, StorageError> {
    conn.transaction(async |conn| {
        lock_keys(conn, &borrowed(keys)).await?;
        let (topics, keys) = columns(keys);
        let discarded = sql_query(DISCARD)
            .bind::<Array<Text>, _>(&topics)
            .bind::<Array<Text>, _>(&keys)
            .bind::<Nullable<BigInt>, _>(only)
            .execute(conn)
            .await?;
        Ok(sql_query(RETURN)
            .bind::<Array<Text>, _>(topics)
            .bind::<Array<Text>, _>(keys)
            .bind::<BigInt, _>(i64::try_from(discarded).unwrap_or(i64::MAX))
            .get_result(conn)
            .await?)
    })
    .await
}

/// What [`discard`] would do now.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn discardable(
    conn: &mut AsyncPgConnection,
    keys: &[TopicKey],
    only: Option<i64>,
) -> Result<Discarded, StorageError> {
    let (topics, keys) = columns(keys);
    Ok(sql_query(concat!(
        "select count(*) filter (where h.cause = 'dead' and ($3 is null or h.id = $3)) as discarded, \
         count(*) filter (where h.cause = 'blocked' and not exists ( \
             select from outbox_held d where d.topic = h.topic and d.key = h.key and d.id < h.id \
             and d.discarded_at is null and d.cause = 'dead' and not ($3 is null or d.id = $3) \
         )) as returned from outbox_held h join ",
        keys!(),
        " on h.topic = k.topic and h.key = k.key \
         where h.discarded_at is null and h.cause <> 'unavailable'"
    ))
    .bind::<Array<Text>, _>(topics)
    .bind::<Array<Text>, _>(keys)
    .bind::<Nullable<BigInt>, _>(only)
    .get_result(conn)
    .await?)
}

fn borrowed(keys: &[TopicKey]) -> Vec<(&str, &str)> {
    keys.iter()
        .map(|k| (k.topic.as_str(), k.key.as_str()))
        .collect()
}

fn columns(keys: &[TopicKey]) -> (Vec<&str>, Vec<&str>) {
    borrowed(keys).into_iter().unzip()
}
