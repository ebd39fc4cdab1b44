//! Removing inbox rows that no copy of their event can meet any more, and dead letters that are
//! settled.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Double, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::pg::error::StorageError;

/// Part of the rows of a group, and what may go of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    /// Rows beyond this event id; from the lowest on when `None`.
    pub after: Option<Uuid>,
    /// Rows to look at.
    pub limit: i64,
    /// Counted from the newest delivery.
    pub older_than: Duration,
    /// The lowest offset that each partition still has.
    pub log_starts: &'a [(i32, i64)],
}

/// What a [`sweep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Swept {
    /// The last event id it looked at; `None` when there are no more.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub reached: Option<Uuid>,
    #[diesel(sql_type = BigInt)]
    pub deleted: i64,
}

/// Walks the primary key, so it needs no index of its own, which every batch would pay for. A row
/// that a batch has locked is left alone, and one that follows a newer copy meanwhile stays: the
/// conditions are checked again on the row that is deleted.
const SWEEP: &str = r#"
with walked as materialized (
    select event_id from inbox
    where consumer_group = $1 and event_id > coalesce($2, '00000000-0000-0000-0000-000000000000')
    order by event_id limit $3),
old as (
    select i.event_id from walked w
    join inbox i on i.consumer_group = $1 and i.event_id = w.event_id
    join unnest($5, $6) s(partition, log_start) on s.partition = i.partition
    where i.topic = $4 and i."offset" < s.log_start
      and coalesce(i.redelivered_at, i.processed_at) < now() - make_interval(secs => $7)
    order by i.event_id for update of i skip locked),
gone as (
    delete from inbox i using old where i.consumer_group = $1 and i.event_id = old.event_id
    returning 1)
select (select event_id from walked order by event_id desc limit 1) as reached,
       (select count(*) from gone) as deleted"#;

/// Looks at some rows and deletes those that are old and whose newest copy Kafka no longer has.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn sweep(conn: &mut AsyncPgConnection, sweep: &Sweep<'_>) -> Result<Swept, StorageError> {
    let (partitions, log_starts): (Vec<i32>, Vec<i64>) = sweep.log_starts.iter().copied().unzip();
    Ok(sql_query(SWEEP)
        .bind::<Text, _>(sweep.group)
        .bind::<Nullable<SqlUuid>, _>(sweep.after)
        .bind::<BigInt, _>(sweep.limit)
        .bind::<Text, _>(sweep.topic)
        .bind::<Array<Integer>, _>(partitions)
        .bind::<Array<BigInt>, _>(log_starts)
        .bind::<Double, _>(sweep.older_than.as_secs_f64())
        .get_result(conn)
        .await?)
}

const SWEEP_DEAD_LETTERS: &str = r#"
with old as (
    select d.partition, d."offset" from unnest($3, $4) s(partition, log_start)
    join inbox_dead_letter d
      on d.consumer_group = $1 and d.topic = $2 and d.partition = s.partition
     and d."offset" < s.log_start
    where d.settled_at < now() - make_interval(secs => $5)
    limit $6 for update of d skip locked)
delete from inbox_dead_letter d using old
where d.consumer_group = $1 and d.topic = $2 and d.partition = old.partition
  and d."offset" = old."offset""#;

/// Deletes dead letters that were settled long ago and that Kafka no longer has, as many as the
/// sweep is limited to; returns how many.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn sweep_dead_letters(
    conn: &mut AsyncPgConnection,
    sweep: &Sweep<'_>,
) -> Result<i64, StorageError> {
    let (partitions, log_starts): (Vec<i32>, Vec<i64>) = sweep.log_starts.iter().copied().unzip();
    let deleted = sql_query(SWEEP_DEAD_LETTERS)
        .bind::<Text, _>(sweep.group)
        .bind::<Text, _>(sweep.topic)
        .bind::<Array<Integer>, _>(partitions)
        .bind::<Array<BigInt>, _>(log_starts)
        .bind::<Double, _>(sweep.older_than.as_secs_f64())
        .bind::<BigInt, _>(sweep.limit)
        .execute(conn)
        .await?;
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
}

/// The oldest pending event of each slot, and the oldest that is held: lowest ids, which were drawn
/// first.
const OLD_UNPUBLISHED: &str = "\
select exists (
    select from generate_series(0, 31) s(slot)
    cross join lateral (select p.id from outbox_pending p where p.slot = s.slot
                        order by p.slot, p.id limit 1) first
    join outbox_event e using (id)
    where e.created_at < now() - make_interval(secs => $1)
    union all
    select from (select id from outbox_held where discarded_at is null order by id limit 1) first
    join outbox_event e using (id)
    where e.created_at < now() - make_interval(secs => $1)) as old";

/// Whether an event older than `age` is still to be published: it may yet be delivered, twice.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unpublished_older_than(
    conn: &mut AsyncPgConnection,
    age: Duration,
) -> Result<bool, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        old: bool,
    }
    let row: Row = sql_query(OLD_UNPUBLISHED)
        .bind::<Double, _>(age.as_secs_f64())
        .get_result(conn)
        .await?;
    Ok(row.old)
}
