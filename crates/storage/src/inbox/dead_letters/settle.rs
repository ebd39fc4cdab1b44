//! The command's side: reading what a key holds, and settling it. [`lock_key`] comes first.

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::Position;

use super::lock::{By, lock};
use super::storable;
use super::stored::{Stored, columns};
use crate::pg::error::StorageError;
use crate::pg::name::named;

/// How a held record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its effect happened.
    Redriven,
    /// It was discarded.
    Discarded,
}

impl Ending {
    const ALL: [Self; 2] = [Self::Redriven, Self::Discarded];

    /// As `inbox_dead_letter.settled_as` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }
}

impl FromSql<Text, Pg> for Ending {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        named(
            value,
            "inbox_dead_letter.settled_as",
            &Self::ALL,
            Self::as_str,
        )
    }
}

/// Keeps owners from blocking behind the key, and other commands from deciding on it, until the
/// transaction ends. What is read of the key before may change; what is read after does not.
///
/// # Errors
/// When Postgres cannot be asked, or the owner is too long in its batch: the transaction is void then.
pub async fn lock_key(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
    key: &[u8],
) -> Result<(), StorageError> {
    lock(conn, (group, topic), &[key], By::Command).await
}

/// How much to read at once: so many records, and so many bytes of values and one record more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    pub records: i64,
    pub bytes: i64,
}

/// The first records held of a key, in the order in which they must be applied.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unsettled_of_key(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
    key: &[u8],
    amount: Amount,
) -> Result<Vec<Stored>, StorageError> {
    Ok(sql_query(concat!(
        r#"select * from (
               select *, coalesce(sum(octet_length(value)) over (
                   order by partition, "offset"
                   rows between unbounded preceding and 1 preceding), 0) as bytes_before
               from (select "#,
        columns!(),
        r#"
                     from inbox_dead_letter
                     where consumer_group = $1 and topic = $2 and settled_at is null
                       and sha256(key) = sha256($3) and key is not null
                     order by partition, "offset" limit $4) first) counted
           where bytes_before < $5 order by partition, "offset""#
    ))
    .bind::<Text, _>(group)
    .bind::<Text, _>(topic)
    .bind::<Binary, _>(key)
    .bind::<BigInt, _>(amount.records)
    .bind::<BigInt, _>(amount.bytes)
    .load(conn)
    .await?)
}

/// The record held at a place, if it has no key; locked until the transaction ends.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unsettled_without_key(
    conn: &mut AsyncPgConnection,
    group: &str,
    position: &Position,
) -> Result<Option<Stored>, StorageError> {
    Ok(sql_query(concat!(
        "select ",
        columns!(),
        r#"
           from inbox_dead_letter
           where consumer_group = $1 and topic = $2 and partition = $3 and "offset" = $4
             and settled_at is null and key is null for update"#
    ))
    .bind::<Text, _>(group)
    .bind::<Text, _>(&position.topic)
    .bind::<Integer, _>(position.partition)
    .bind::<BigInt, _>(position.offset)
    .get_result(conn)
    .await
    .optional()?)
}

/// The key of the unsettled record at a place: `None` when there is none, `Some(None)` when it has
/// no key.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn key_of(
    conn: &mut AsyncPgConnection,
    group: &str,
    position: &Position,
) -> Result<Option<Option<Vec<u8>>>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Binary>)]
        key: Option<Vec<u8>>,
    }
    let row: Option<Row> = sql_query(
        r#"select key from inbox_dead_letter where consumer_group = $1 and topic = $2
           and partition = $3 and "offset" = $4 and settled_at is null"#,
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(&position.topic)
    .bind::<Integer, _>(position.partition)
    .bind::<BigInt, _>(position.offset)
    .get_result(conn)
    .await
    .optional()?;
    Ok(row.map(|row| row.key))
}

/// Of each key that is held, and of each held record without one, the first place.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unsettled_keys(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<Position>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Integer)]
        partition: i32,
        #[diesel(sql_type = BigInt)]
        offset: i64,
    }
    let rows: Vec<Row> = sql_query(
        r#"select partition, "offset" from (
               select distinct on (sha256(key)) partition, "offset" from inbox_dead_letter
               where consumer_group = $1 and topic = $2 and settled_at is null and key is not null
               order by sha256(key), partition, "offset") keyed
           union all
           select partition, "offset" from inbox_dead_letter
           where consumer_group = $1 and topic = $2 and settled_at is null and key is null
           order by partition, "offset""#,
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(topic)
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Position {
            topic: topic.to_owned(),
            partition: row.partition,
            offset: row.offset,
        })
        .collect())
}

/// Marks records as ended.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn settle(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
    places: &[(i32, i64)],
    ending: Ending,
) -> Result<(), StorageError> {
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = places.iter().copied().unzip();
    sql_query(
        r#"update inbox_dead_letter d set settled_at = now(), settled_as = $5
           from unnest($3, $4) p(partition, at)
           where d.consumer_group = $1 and d.topic = $2 and d.partition = p.partition
             and d."offset" = p.at and d.settled_at is null"#,
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(topic)
    .bind::<Array<Integer>, _>(partitions)
    .bind::<Array<BigInt>, _>(offsets)
    .bind::<Text, _>(ending.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that a held record was tried again in vain; one that waited is dead itself from here on.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn rejected(
    conn: &mut AsyncPgConnection,
    group: &str,
    position: &Position,
    reason: &str,
) -> Result<(), StorageError> {
    sql_query(
        r#"update inbox_dead_letter set cause = 'dead', reason = $5, attempts = attempts + 1
           where consumer_group = $1 and topic = $2 and partition = $3 and "offset" = $4"#,
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(&position.topic)
    .bind::<Integer, _>(position.partition)
    .bind::<BigInt, _>(position.offset)
    .bind::<Text, _>(storable(reason))
    .execute(conn)
    .await?;
    Ok(())
}
