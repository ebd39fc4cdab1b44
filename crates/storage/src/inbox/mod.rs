//! The tables `inbox` and `inbox_offset`: what a consumer group has applied, and how far it is.
//! What it could not apply is in [`dead_letters`].

mod batch;
pub mod dead_letters;
pub mod retention;

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::EventId;
use uuid::Uuid;

use crate::pg::error::StorageError;

pub use batch::{Opened, advance, fence, follow_copies, record, record_unmet, unrecord};

/// One partition of one topic, as one consumer group reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

impl Stream {
    /// The lease scope of the group's partitions of a topic.
    pub fn lease_scope(group: &str, topic: &str) -> String {
        format!("{group}/{topic}")
    }
}

/// How far a group has come in a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The offset to fetch next.
    pub next_offset: i64,
    /// Event id of the record before it, if that had one.
    pub last_event_id: Option<EventId>,
    /// Kafka's id of the topic, if it was known.
    pub topic_id: Option<Uuid>,
}

/// Where the group stands; `None` when it never consumed this partition.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn progress(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
) -> Result<Option<Progress>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        next_offset: i64,
        #[diesel(sql_type = Nullable<SqlUuid>)]
        last_event_id: Option<Uuid>,
        #[diesel(sql_type = Nullable<SqlUuid>)]
        topic_id: Option<Uuid>,
    }
    Ok(sql_query(
        "select next_offset, last_event_id, topic_id from inbox_offset \
         where consumer_group = $1 and topic = $2 and partition = $3",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .get_result::<Row>(conn)
    .await
    .optional()?
    .map(|row| Progress {
        next_offset: row.next_offset,
        last_event_id: row.last_event_id.map(EventId::from),
        topic_id: row.topic_id,
    }))
}

/// The offsets at which a group stands in the partitions of a topic.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn next_offsets(
    conn: &mut AsyncPgConnection,
    group: &str,
    topic: &str,
) -> Result<HashMap<i32, i64>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Integer)]
        partition: i32,
        #[diesel(sql_type = BigInt)]
        next_offset: i64,
    }
    let rows: Vec<Row> = sql_query(
        "select partition, next_offset from inbox_offset where consumer_group = $1 and topic = $2",
    )
    .bind::<Text, _>(group)
    .bind::<Text, _>(topic)
    .load(conn)
    .await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| (row.partition, row.next_offset)).collect())
}

/// Sets where a group begins in a partition it never consumed; leaves one it did.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn begin_at(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    next_offset: i64,
    topic_id: Option<Uuid>,
) -> Result<(), StorageError> {
    sql_query(
        "insert into inbox_offset (consumer_group, topic, partition, next_offset, topic_id) \
         values ($1, $2, $3, $4, $5) on conflict do nothing",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .bind::<BigInt, _>(next_offset)
    .bind::<Nullable<SqlUuid>, _>(topic_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records the id of the topic in which a group stands at `next_offset`, unless one is recorded.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn identify(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    next_offset: i64,
    topic_id: Uuid,
) -> Result<(), StorageError> {
    sql_query(
        "update inbox_offset set topic_id = $5 where consumer_group = $1 and topic = $2 \
         and partition = $3 and next_offset = $4 and topic_id is null",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .bind::<BigInt, _>(next_offset)
    .bind::<SqlUuid, _>(topic_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Sets the next offset, even if a process owns the partition: the owner meets its fence and
/// continues from there.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn reset(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    next_offset: i64,
    topic_id: Option<Uuid>,
) -> Result<(), StorageError> {
    sql_query(
        "insert into inbox_offset (consumer_group, topic, partition, next_offset, topic_id) \
         values ($1, $2, $3, $4, $5) on conflict (consumer_group, topic, partition) do update \
         set next_offset = excluded.next_offset, last_event_id = null, \
             topic_id = excluded.topic_id, updated_at = now()",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .bind::<BigInt, _>(next_offset)
    .bind::<Nullable<SqlUuid>, _>(topic_id)
    .execute(conn)
    .await?;
    Ok(())
}
