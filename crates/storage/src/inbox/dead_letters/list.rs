//! What an operator sees of dead letters.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{
    BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Cause, Ending};
use crate::pg::error::StorageError;

/// A held record without its value.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Listed {
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = BigInt)]
    pub offset: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub event_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Binary>)]
    pub key: Option<Vec<u8>>,
    /// Size of the value; `None` of a tombstone.
    #[diesel(sql_type = Nullable<Integer>)]
    pub value_bytes: Option<i32>,
    #[diesel(sql_type = Text)]
    pub cause: Cause,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Timestamptz)]
    pub held_at: OffsetDateTime,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub settled_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Text>)]
    pub settled_as: Option<Ending>,
}

/// Which ones to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Settled ones too.
    pub settled: bool,
    pub limit: i64,
}

/// Held records of a group's topic, by partition and offset.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn list(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
    filter: Filter,
) -> Result<Vec<Listed>, StorageError> {
    Ok(sql_query(
        r#"select partition, "offset", event_id, key, octet_length(value) as value_bytes, cause,
                  reason, attempts, held_at, settled_at, settled_as
           from inbox_dead_letter
           where consumer_group = $1 and topic = $2 and (settled_at is null or $3)
           order by partition, "offset" limit $4"#,
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(topic)
    .bind::<Bool, _>(filter.settled)
    .bind::<BigInt, _>(filter.limit)
    .load(conn)
    .await?)
}

/// How many records of a partition are held and not settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Counts {
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    #[diesel(sql_type = BigInt)]
    pub blocked: i64,
}

/// Counts by partition; those without a held record are left out.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn counts(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
) -> Result<Vec<Counts>, StorageError> {
    Ok(sql_query(
        "select partition, count(*) filter (where cause = 'dead') as dead, \
                count(*) filter (where cause = 'blocked') as blocked \
         from inbox_dead_letter \
         where consumer_group = $1 and topic = $2 and settled_at is null \
         group by partition order by partition",
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(topic)
    .load(conn)
    .await?)
}
