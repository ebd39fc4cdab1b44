//! The table `inbox_dead_letter`: records that could not be applied, and those waiting behind them.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::error::StorageError;
use crate::inbox::Stream;

/// Why a record is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It could not be applied.
    Dead,
    /// An earlier record of its topic and key could not.
    Behind,
}

impl Cause {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Behind => "behind",
        }
    }
}

/// A record to be held, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub offset: i64,
    pub event_id: Option<Uuid>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub cause: Cause,
    /// For whoever decides what to do with it.
    pub reason: String,
}

/// Which of `keys` are held back: a record of theirs is held and not yet settled.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn held_keys(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    keys: &[&[u8]],
) -> Result<HashSet<Vec<u8>>, StorageError> {
    #[derive(QueryableByName)]
    struct Key {
        #[diesel(sql_type = Binary)]
        key: Vec<u8>,
    }
    let keys: Vec<Key> = sql_query(
        "select distinct d.key from inbox_dead_letter d join unnest($3) k(key) \
         on sha256(d.key) = sha256(k.key) \
         where d.consumer_group = $1 and d.topic = $2 and d.settled_at is null and d.key is not null",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Array<Binary>, _>(keys)
    .load(conn)
    .await?;
    Ok(keys.into_iter().map(|row| row.key).collect())
}

const HOLD: &str = r#"
insert into inbox_dead_letter (consumer_group, topic, partition, "offset", event_id, key, value,
                               header_names, header_values, cause, reason)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (consumer_group, topic, partition, "offset") do nothing"#;

/// Holds a record.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn hold(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    letter: &DeadLetter,
) -> Result<(), StorageError> {
    let (names, values): (Vec<&[u8]>, Vec<&[u8]>) = letter
        .headers
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .unzip();
    sql_query(HOLD)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<diesel::sql_types::Integer, _>(stream.partition)
        .bind::<BigInt, _>(letter.offset)
        .bind::<Nullable<SqlUuid>, _>(letter.event_id)
        .bind::<Nullable<Binary>, _>(letter.key.as_deref())
        .bind::<Nullable<Binary>, _>(letter.value.as_deref())
        .bind::<Array<Binary>, _>(names)
        .bind::<Array<Binary>, _>(values)
        .bind::<Text, _>(letter.cause.as_str())
        // Text in Postgres cannot hold a NUL, which a reason may quote from the record.
        .bind::<Text, _>(letter.reason.replace('\0', "\u{fffd}"))
        .execute(conn)
        .await?;
    Ok(())
}
