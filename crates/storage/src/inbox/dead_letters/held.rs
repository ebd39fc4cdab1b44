//! The owner's side: which keys are held back, and holding records.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::lock::{By, lock};
use super::stored::{Stored, columns};
use super::{DeadLetter, storable};
use crate::inbox::Stream;
use crate::pg::cached::cached;
use crate::pg::error::StorageError;

/// Relies on the index by hash, which has unsettled rows with a key only.
const HELD_KEYS: &str = "\
select distinct d.key from unnest($1) k(key) join inbox_dead_letter d
  on d.consumer_group = $2 and d.topic = $3 and sha256(d.key) = sha256(k.key)
 and d.settled_at is null and d.key is not null";

/// Which of `keys` are held back: a record of theirs is held and not yet settled. They stay so until
/// the transaction ends.
///
/// Why no record is blocked behind nothing: a command settles a key's records under the exclusive
/// lock of the key, in one transaction; the owner blocks only behind keys it has locked (shared) and
/// looked at again. So either the command comes first, and the second look, whose snapshot is newer
/// than the lock, no longer finds the key: the record is applied, after those the command applied.
/// Or the owner comes first, and the command, which reads the key's records after it got its lock,
/// finds the blocked one among them. A key that the first look does not find needs no lock: only an
/// owner makes a key held, and this partition's is the caller.
///
/// # Errors
/// When Postgres cannot be asked, or a command is too long in deciding: the transaction is void then.
pub async fn held_keys(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    keys: &[&[u8]],
) -> Result<HashSet<Vec<u8>>, StorageError> {
    let seen = look(conn, stream, keys).await?;
    if seen.is_empty() {
        return Ok(HashSet::new());
    }
    let seen: Vec<&[u8]> = seen.iter().map(Vec::as_slice).collect();
    lock(conn, (&stream.group, &stream.topic), &seen, By::Owner).await?;
    look(conn, stream, &seen).await
}

async fn look(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    keys: &[&[u8]],
) -> Result<HashSet<Vec<u8>>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Binary)]
        key: Vec<u8>,
    }
    let rows: Vec<Row> = cached(HELD_KEYS)
        .bind::<Array<Binary>, _>(keys)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| row.key).collect())
}

const HELD_BEFORE: &str = concat!(
    "select ",
    columns!(),
    r#" from inbox_dead_letter
where consumer_group = $1 and topic = $2 and partition = $3 and "offset" between $4 and $5"#
);

/// The records at the offsets `first..=last` of the partition that were held before, settled or not.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn held_before(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    (first, last): (i64, i64),
) -> Result<Vec<Stored>, StorageError> {
    Ok(cached(HELD_BEFORE)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<BigInt, _>(first)
        .bind::<BigInt, _>(last)
        .load(conn)
        .await?)
}

/// A settled row is replaced: it is about another record, of a topic that was created again since.
const HOLD: &str = r#"
insert into inbox_dead_letter as d (consumer_group, topic, partition, "offset", event_id, key, value,
                                    header_names, header_values, omitted_bytes, cause, reason,
                                    attempts)
select $1, $2, $3, l.at, l.event_id, l.key, l.value, coalesce(h.names, '{}'), coalesce(h.values, '{}'),
       l.omitted_bytes, l.cause, l.reason, l.attempts
from unnest($4, $5, $6, $7, $8, $9, $10, $11)
     l(at, event_id, key, value, omitted_bytes, cause, reason, attempts)
left join (select at, array_agg(name order by nth) as names, array_agg(value order by nth) as values
           from unnest($12, $13, $14) with ordinality u(at, name, value, nth) group by at) h using (at)
order by l.at
on conflict (consumer_group, topic, partition, "offset") do update
set event_id = excluded.event_id, key = excluded.key, value = excluded.value,
    header_names = excluded.header_names, header_values = excluded.header_values,
    omitted_bytes = excluded.omitted_bytes, cause = excluded.cause, reason = excluded.reason,
    attempts = excluded.attempts, held_at = now(), settled_at = null, settled_as = null
where d.settled_at is not null
returning "offset""#;

/// Holds records, no two of the same offset. Returns the first offset at which another one is held
/// already: the transaction is to be rolled back then.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn hold(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    letters: &[DeadLetter],
) -> Result<Option<i64>, StorageError> {
    #[derive(QueryableByName)]
    struct Held {
        #[diesel(sql_type = BigInt)]
        offset: i64,
    }
    fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    if letters.is_empty() {
        return Ok(None);
    }
    let offsets = column(letters, |letter| letter.offset);
    let headers = letters.iter();
    let headers = headers.flat_map(|letter| letter.headers.iter().map(|h| (letter.offset, h)));
    let headers: Vec<_> = headers.collect();
    let held: Vec<Held> = cached(HOLD)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Array<BigInt>, _>(&offsets)
        .bind::<Array<Nullable<SqlUuid>>, _>(column(letters, |letter| letter.event_id))
        .bind::<Array<Nullable<Binary>>, _>(column(letters, |letter| letter.key.as_deref()))
        .bind::<Array<Nullable<Binary>>, _>(column(letters, |letter| letter.value.as_deref()))
        .bind::<Array<Nullable<BigInt>>, _>(column(letters, |letter| letter.omitted_bytes))
        .bind::<Array<Text>, _>(column(letters, |letter| letter.cause.as_str()))
        .bind::<Array<Text>, _>(column(letters, |letter| storable(&letter.reason)))
        .bind::<Array<Integer>, _>(column(letters, |letter| letter.attempts))
        .bind::<Array<BigInt>, _>(column(&headers, |(offset, _)| *offset))
        .bind::<Array<Binary>, _>(column(&headers, |(_, (name, _))| name.as_slice()))
        .bind::<Array<Nullable<Binary>>, _>(column(&headers, |(_, (_, value))| value.as_deref()))
        .load(conn)
        .await?;
    let held: HashSet<i64> = held.into_iter().map(|row| row.offset).collect();
    Ok(offsets.into_iter().find(|offset| !held.contains(offset)))
}
