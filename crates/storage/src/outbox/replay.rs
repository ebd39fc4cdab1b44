//! Publishing again what was published: rows move back to pending, and what follows is the relay's
//! everyday work. A mark of the first publication that comes late does not undo it: it names the
//! version of the pending row that was read then, and a replayed row has another.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use time::OffsetDateTime;

use crate::pg::error::StorageError;

/// What a pending row says of an event `e`: as the trigger on `outbox_event` counts.
macro_rules! event_bytes {
    () => {
        "octet_length(e.key) + coalesce(octet_length(e.payload::text), 0) \
         + coalesce(octet_length(e.payload_bytes), 0) + octet_length(e.headers::text)"
    };
}

/// Which published events. Every bound must hold; `None` is no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayBounds {
    /// Published at this time or later.
    pub from: Option<OffsetDateTime>,
    /// Published before this time. Give one, or what is replayed would be met again.
    pub to: Option<OffsetDateTime>,
    pub topic: Option<String>,
    pub key: Option<String>,
    /// The lowest id.
    pub from_id: Option<i64>,
    /// The highest id.
    pub to_id: Option<i64>,
}

/// What one look at a window of ids found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Window {
    /// Events within the bounds.
    #[diesel(sql_type = BigInt)]
    pub matching: i64,
    /// The id to continue after; `None` at the end.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last: Option<i64>,
}

/// The next published ids. Plan: a walk along `outbox_published_pkey`.
macro_rules! by_id {
    () => {
        "\
with seen as (
    select p.id from outbox_published p
    where p.id > $1 and p.id <= $2 and $6::text is null order by p.id limit $3)"
    };
}

/// The next ids of a key, published or not. Plan: a walk along `outbox_event_key`.
macro_rules! by_key {
    () => {
        "\
with seen as (
    select e.id from outbox_event e
    where e.key = $6 and e.id > $1 and e.id <= $2 order by e.key, e.id limit $3)"
    };
}

/// Those of them that are published and within the bounds.
macro_rules! wanted {
    () => {
        "
wanted as (
    select e.id, (hashtextextended(e.key, 0) & 31)::smallint as slot, e.key, e.payload,
           e.payload_bytes, e.headers
    from seen s join outbox_published p on p.id = s.id join outbox_event e on e.id = s.id
    where ($4 is null or p.processed_at >= $4) and ($5 is null or p.processed_at < $5)
      and ($7::text is null or e.topic = $7) order by s.id)"
    };
}

macro_rules! look {
    () => {
        "\nselect count(*) as matching, (select max(id) from seen) as last from wanted"
    };
}

/// What was replayed or deleted by somebody else meanwhile does not move. What is pending already
/// stays as it is.
macro_rules! moved {
    () => {
        concat!(
            "
moved as (
    delete from outbox_published p using wanted e where p.id = e.id
    returning e.slot, p.id, ",
            event_bytes!(),
            " as bytes),
queued as (
    insert into outbox_pending (slot, id, bytes) select slot, id, bytes from moved
    on conflict (slot, id) do nothing)
select count(*) as matching, (select max(id) from seen) as last from moved"
        )
    };
}

pub const REPLAY_BY_ID: &str = concat!(by_id!(), ",", wanted!(), ",", moved!());
pub const REPLAY_BY_KEY: &str = concat!(by_key!(), ",", wanted!(), ",", moved!());
const LOOK_BY_ID: &str = concat!(by_id!(), ",", wanted!(), look!());
const LOOK_BY_KEY: &str = concat!(by_key!(), ",", wanted!(), look!());

/// Moves the published events within `bounds` back to pending, of the next `size` ids behind
/// `after`, lowest first. Call it again behind [`Window::last`] until there is none.
///
/// # Errors
/// When Postgres cannot be asked; nothing of this window moved then. Safe to repeat.
pub async fn replay(
    conn: &mut AsyncPgConnection,
    bounds: &ReplayBounds,
    after: Option<i64>,
    size: i64,
) -> Result<Window, StorageError> {
    let statement = match bounds.key {
        Some(_) => REPLAY_BY_KEY,
        None => REPLAY_BY_ID,
    };
    walk(conn, statement, bounds, after, size).await
}

/// What [`replay`] would move.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn replayable(
    conn: &mut AsyncPgConnection,
    bounds: &ReplayBounds,
    after: Option<i64>,
    size: i64,
) -> Result<Window, StorageError> {
    let statement = match bounds.key {
        Some(_) => LOOK_BY_KEY,
        None => LOOK_BY_ID,
    };
    walk(conn, statement, bounds, after, size).await
}

async fn walk(
    conn: &mut AsyncPgConnection,
    statement: &'static str,
    bounds: &ReplayBounds,
    after: Option<i64>,
    size: i64,
) -> Result<Window, StorageError> {
    let start = bounds.from_id.map_or(i64::MIN, |id| id.saturating_sub(1));
    Ok(sql_query(statement)
        .bind::<BigInt, _>(after.unwrap_or(i64::MIN).max(start))
        .bind::<BigInt, _>(bounds.to_id.unwrap_or(i64::MAX))
        .bind::<BigInt, _>(size)
        .bind::<Nullable<Timestamptz>, _>(bounds.from)
        .bind::<Nullable<Timestamptz>, _>(bounds.to)
        .bind::<Nullable<Text>, _>(bounds.key.as_deref())
        .bind::<Nullable<Text>, _>(bounds.topic.as_deref())
        .get_result(conn)
        .await?)
}

/// Postgres' time, which the times of publication are.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn database_time(conn: &mut AsyncPgConnection) -> Result<OffsetDateTime, StorageError> {
    #[derive(QueryableByName)]
    struct Now {
        #[diesel(sql_type = Timestamptz)]
        now: OffsetDateTime,
    }
    let now: Now = sql_query("select clock_timestamp() as now")
        .get_result(conn)
        .await?;
    Ok(now.now)
}
