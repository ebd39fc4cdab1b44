//! The consumer's one transaction per batch: [`fence`] comes first, [`advance`] last.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::EventId;
use uuid::Uuid;

use super::{Progress, Stream};
use crate::lease::MemberId;
use crate::pg::cached::cached;
use crate::pg::error::StorageError;

/// Locks the offset's row against every other consumer, and the lease's against a new owner. What
/// it says of dead letters may be as old as the statement's beginning. A transaction that changed
/// them for this partition meanwhile has moved the offset too, and then there is no row.
const FENCE: &str = r#"
select exists (select from inbox_dead_letter d
               where d.consumer_group = o.consumer_group and d.topic = o.topic
                 and d.settled_at is null and d.key is not null) as keys_held,
       exists (select from inbox_dead_letter d
               where d.consumer_group = o.consumer_group and d.topic = o.topic
                 and d.partition = o.partition and d."offset" between $1 and $2) as held_before
from inbox_offset o
join lease l on l.scope = $3 and l.unit = o.partition
where o.consumer_group = $4 and o.topic = $5 and o.partition = $6 and o.next_offset = $1
  and o.topic_id is not distinct from $7 and l.owner = $8 and l.epoch = $9
for update of o for share of l"#;

/// What there is to know before a batch is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Opened {
    /// Some key of the topic is held back.
    #[diesel(sql_type = Bool)]
    pub keys_held: bool,
    /// Some record at the batch's offsets was held once: they are delivered again.
    #[diesel(sql_type = Bool)]
    pub held_before: bool,
}

/// Opens the batch of the offsets `first..=last` of a topic: `None` unless this member owns the
/// partition under `epoch` and the group stands at `first` of this topic exactly. Then the batch must
/// be dropped, whatever it holds.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn fence(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    (expected, last): (i64, i64),
    topic_id: Option<Uuid>,
    owner: MemberId,
    epoch: i64,
) -> Result<Option<Opened>, StorageError> {
    Ok(cached(FENCE)
        .bind::<BigInt, _>(expected)
        .bind::<BigInt, _>(last)
        .bind::<Text, _>(Stream::lease_scope(&stream.group, &stream.topic))
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Nullable<SqlUuid>, _>(topic_id)
        .bind::<SqlUuid, _>(owner.as_uuid())
        .bind::<BigInt, _>(epoch)
        .get_result(conn)
        .await
        .optional()?)
}

/// Rows are inserted in the order of event ids, so that two partitions that carry copies of the
/// same events cannot deadlock.
const RECORD: &str = r#"
insert into inbox (consumer_group, event_id, topic, partition, "offset")
select $1, n.event_id, $2, $3, n.at from unnest($4, $5) n(event_id, at) order by n.event_id
on conflict (consumer_group, event_id) do nothing
returning event_id"#;

/// The same where none of the events is there yet: without a look for each before it is inserted.
const RECORD_UNMET: &str = r#"
insert into inbox (consumer_group, event_id, topic, partition, "offset")
select $1, n.event_id, $2, $3, n.at from unnest($4, $5) n(event_id, at) order by n.event_id"#;

/// Records events that the group has not met, which costs about half of what [`record`] does. False
/// when it has met one: the transaction is broken then, and must be rolled back.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn record_unmet(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    events: &[(EventId, i64)],
) -> Result<bool, StorageError> {
    if events.is_empty() {
        return Ok(true);
    }
    let (ids, offsets) = columns(events);
    let inserted = cached(RECORD_UNMET)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(offsets)
        .execute(conn)
        .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

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
    let new: Vec<New> = cached(RECORD)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(offsets)
        .load(conn)
        .await?;
    Ok(new.into_iter().map(|row| row.event_id.into()).collect())
}

/// A group that was put back meets copies again that are older than the one it met last.
///
/// A row may be swept after [`record`] met it, so it is inserted again where it is gone. Rows are taken
/// in the order of event ids: two partitions that carry copies of the same events would deadlock.
const FOLLOW: &str = r#"
insert into inbox as i (consumer_group, event_id, topic, partition, "offset", redelivered_at)
select $1, n.event_id, $2, $3, n.at, now() from unnest($4, $5) n(event_id, at) order by n.event_id
on conflict (consumer_group, event_id) do update
set topic = excluded.topic, partition = excluded.partition,
    "offset" = case when (i.topic, i.partition) = (excluded.topic, excluded.partition)
                    then greatest(i."offset", excluded."offset") else excluded."offset" end,
    redelivered_at = greatest(i.redelivered_at, excluded.redelivered_at)"#;

/// Moves the rows of events that arrived again to their newest copy, so that they stay for as long
/// as Kafka can deliver it, and lets their age begin again.
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
    cached(FOLLOW)
        .bind::<Text, _>(&stream.group)
        .bind::<Text, _>(&stream.topic)
        .bind::<Integer, _>(stream.partition)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(offsets)
        .execute(conn)
        .await?;
    Ok(())
}

/// Closes a batch: the group stands at `progress` now, in the same topic. [`fence`] locked the row.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn advance(
    conn: &mut AsyncPgConnection,
    stream: &Stream,
    progress: Progress,
) -> Result<(), StorageError> {
    cached(
        "update inbox_offset set next_offset = $1, last_event_id = $2, updated_at = now() \
         where consumer_group = $3 and topic = $4 and partition = $5",
    )
    .bind::<BigInt, _>(progress.next_offset)
    .bind::<Nullable<SqlUuid>, _>(progress.last_event_id.map(EventId::as_uuid))
    .bind::<Text, _>(&stream.group)
    .bind::<Text, _>(&stream.topic)
    .bind::<Integer, _>(stream.partition)
    .execute(conn)
    .await?;
    Ok(())
}

const UNRECORD: &str = "delete from inbox where consumer_group = $1 and event_id = any($2)";

/// Takes back what [`record`] said in this transaction: the effect did not happen after all.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unrecord(
    conn: &mut AsyncPgConnection,
    group: &str,
    events: &[EventId],
) -> Result<(), StorageError> {
    if events.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = events.iter().map(|id| id.as_uuid()).collect();
    cached(UNRECORD)
        .bind::<Text, _>(group)
        .bind::<Array<SqlUuid>, _>(ids)
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
