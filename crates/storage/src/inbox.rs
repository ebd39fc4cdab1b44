//! The tables `inbox` and `inbox_offset`: what a consumer group has applied, and how far it is.
//!
//! All of this runs inside the consumer's one transaction per batch; [`fence`] comes first.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::EventId;
use uuid::Uuid;

use crate::error::StorageError;
use crate::lease::MemberId;

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
    }
    Ok(sql_query(
        "select next_offset, last_event_id from inbox_offset \
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
    }))
}

/// Sets where a group begins in a partition it never consumed; leaves one it did.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn begin_at(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    next_offset: i64,
) -> Result<(), StorageError> {
    sql_query(
        "insert into inbox_offset (consumer_group, topic, partition, next_offset) \
         values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .bind::<BigInt, _>(next_offset)
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks the offset's row against every other consumer, and the lease's against a new owner.
const FENCE: &str = "\
select 1 from inbox_offset o
join lease l on l.scope = $5 and l.unit = o.partition
where o.consumer_group = $1 and o.topic = $2 and o.partition = $3 and o.next_offset = $4
  and l.owner = $6 and l.epoch = $7
for update of o for share of l";

/// Opens a batch: true when this member owns the partition under `epoch` and the group stands at
/// `expected` exactly. On false the batch must be dropped, whatever it holds.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn fence(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    expected: i64,
    owner: MemberId,
    epoch: i64,
) -> Result<bool, StorageError> {
    let rows = sql_query(FENCE)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<BigInt, _>(expected)
        .bind::<Text, _>(Stream::lease_scope(&stream.group, &stream.topic))
        .bind::<SqlUuid, _>(owner.as_uuid())
        .bind::<BigInt, _>(epoch)
        .execute(conn)
        .await?;
    Ok(rows == 1)
}

/// Rows are inserted in the order of event ids, so that two partitions that carry copies of the
/// same events cannot deadlock.
const RECORD: &str = r#"
insert into inbox (consumer_group, event_id, topic, partition, "offset")
select $1, n.event_id, $2, $3, n.at from unnest($4, $5) n(event_id, at) order by n.event_id
on conflict (consumer_group, event_id) do nothing
returning event_id"#;

/// Records events and returns those that were not there before: the ones whose effect is still to
/// happen. An event id must not come twice in one call.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn record(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    events: &[(EventId, i64)],
) -> Result<HashSet<EventId>, StorageError> {
    #[derive(QueryableByName)]
    struct New {
        #[diesel(sql_type = SqlUuid)]
        event_id: Uuid,
    }
    if events.is_empty() {
        return Ok(HashSet::new());
    }
    let (ids, offsets) = columns(events);
    let new: Vec<New> = sql_query(RECORD)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(offsets)
        .load(conn)
        .await?;
    Ok(new.into_iter().map(|row| row.event_id.into()).collect())
}

const FOLLOW: &str = r#"
update inbox i set topic = $2, partition = $3, "offset" = n.at
from (select event_id, at from unnest($4, $5) n(event_id, at) order by event_id) n
where i.consumer_group = $1 and i.event_id = n.event_id"#;

/// Moves the rows of events that arrived again to their newest copy, so that they stay for as long
/// as Kafka can deliver it.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn follow_copies(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    copies: &[(EventId, i64)],
) -> Result<(), StorageError> {
    if copies.is_empty() {
        return Ok(());
    }
    let (ids, offsets) = columns(copies);
    sql_query(FOLLOW)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(offsets)
        .execute(conn)
        .await?;
    Ok(())
}

/// Closes a batch: the group stands at `progress` now. [`fence`] locked the row.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn advance(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    progress: Progress,
) -> Result<(), StorageError> {
    sql_query(
        "update inbox_offset set next_offset = $4, last_event_id = $5, updated_at = now() \
         where consumer_group = $1 and topic = $2 and partition = $3",
    )
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .bind::<BigInt, _>(progress.next_offset)
    .bind::<Nullable<SqlUuid>, _>(progress.last_event_id.map(EventId::as_uuid))
    .execute(conn)
    .await?;
    Ok(())
}

fn columns(events: &[(EventId, i64)]) -> (Vec<Uuid>, Vec<i64>) {
    events
        .iter()
        .map(|(event_id, offset)| (event_id.as_uuid(), *offset))
        .unzip()
}
