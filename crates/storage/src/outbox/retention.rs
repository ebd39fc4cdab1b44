//! Deleting what is old and done: published and discarded events.
//!
//! An event goes only together with the row that says it is done, in one statement: one that is
//! pending, held or replayed at that moment has no such row, and stays.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Double, Nullable};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};

use crate::pg::error::StorageError;

/// Where a done event is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// In `outbox_published`.
    Published,
    /// In `outbox_held`, with the time of the discard.
    Discarded,
}

/// What one look at a window of ids did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Cleaned {
    /// Events deleted.
    #[diesel(sql_type = BigInt)]
    pub deleted: i64,
    /// The id to continue after; `None` at the end, where the next pass starts from the lowest id.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last: Option<i64>,
}

/// One cleaner at a time is enough. Per schema, as the outbox is.
const LOCK: &str = "\
select pg_try_advisory_xact_lock(hashtextextended('outbox retention ' || current_schema(), 0)) as ours";

/// Plan: a walk along `outbox_published_pkey` from where the last one stopped, then a look-up by
/// primary key for each row that goes. Nothing is waited for: a row that is being replayed is
/// skipped. An event was published after it was created, so the walk ends where nothing went and
/// the last event was created too late to be old: behind it are millions that are younger.
pub const CLEAN_PUBLISHED: &str = "\
with seen as (
    select p.id, p.processed_at from outbox_published p where p.id > $1 order by p.id limit $2),
old as (
    select p.id from seen s join outbox_published p on p.id = s.id
    where s.processed_at < now() - make_interval(secs => $3)
    order by p.id for update of p skip locked),
gone as (delete from outbox_published p using old where p.id = old.id returning p.id),
events as (delete from outbox_event e using gone where e.id = gone.id)
select g.deleted,
       case when g.deleted = 0 and exists (
           select from outbox_event e
           where e.id = s.last and e.created_at >= now() - make_interval(secs => $3))
       then null else s.last end as last
from (select max(id) as last from seen) s, (select count(*) as deleted from gone) g";

/// Plan: a walk along `outbox_held_pkey`; the table holds little.
pub const CLEAN_DISCARDED: &str = "\
with seen as (
    select h.id, h.discarded_at from outbox_held h where h.id > $1 order by h.id limit $2),
old as (
    select h.id from seen s join outbox_held h on h.id = s.id
    where s.discarded_at < now() - make_interval(secs => $3)
    order by h.id for update of h skip locked),
gone as (delete from outbox_held h using old where h.id = old.id returning h.id),
events as (delete from outbox_event e using gone where e.id = gone.id)
select (select count(*) from gone) as deleted, (select max(id) from seen) as last";

/// Deletes, of the next `size` done events behind `after`, those that were done longer ago than
/// `retention`. `Ok(None)` while somebody else is at it.
///
/// # Errors
/// When Postgres cannot be asked; nothing is deleted then. Safe to repeat.
pub async fn clean(
    conn: &mut AsyncPgConnection,
    done: Done,
    retention: Duration,
    after: Option<i64>,
    size: i64,
) -> Result<Option<Cleaned>, StorageError> {
    #[derive(QueryableByName)]
    struct Lock {
        #[diesel(sql_type = Bool)]
        ours: bool,
    }
    let statement = match done {
        Done::Published => CLEAN_PUBLISHED,
        Done::Discarded => CLEAN_DISCARDED,
    };
    conn.transaction(async |conn| {
        let lock: Lock = sql_query(LOCK).get_result(conn).await?;
        if !lock.ours {
            return Ok(None);
        }
        let cleaned = sql_query(statement)
            .bind::<BigInt, _>(after.unwrap_or(i64::MIN))
            .bind::<BigInt, _>(size)
            .bind::<Double, _>(retention.as_secs_f64())
            .get_result(conn)
            .await?;
        Ok(Some(cleaned))
    })
    .await
}
