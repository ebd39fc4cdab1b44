//! The proof that each event is in exactly one of pending, published and held.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::pg::error::StorageError;

/// An id that is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Offender {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// `None` when there is no such event.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub event_id: Option<Uuid>,
    /// What is wrong: `unqueued` (in none of the three), `pending and published` and its like,
    /// `pending in a wrong slot`, `pending without an event` and its like, `blocked by nothing` (held,
    /// and nothing of its key before it is).
    #[diesel(sql_type = Text)]
    pub state: String,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Events looked at.
    pub events: i64,
    /// At most as many as were asked for; none when all is well.
    pub offenders: Vec<Offender>,
}

/// Plan: anti-joins of whole tables, merged or hashed, in one snapshot. Each branch ends at the
/// limit.
const OFFENDERS: &str = "\
select o.id, e.event_id, o.state from (
    select e.id, 'unqueued' as state from outbox_event e
    where not exists (select from outbox_published p where p.id = e.id)
      and not exists (select from outbox_held h where h.id = e.id)
      and not exists (select from outbox_pending q where q.id = e.id)
    union all
    select p.id, 'pending and published' from outbox_pending q join outbox_published p on p.id = q.id
    union all
    select h.id, 'published and held' from outbox_held h join outbox_published p on p.id = h.id
    union all
    select h.id, 'pending and held' from outbox_held h join outbox_pending q on q.id = h.id
    union all
    select q.id, 'pending in a wrong slot' from outbox_pending q join outbox_event e on e.id = q.id
    where q.slot <> (hashtextextended(e.key, 0) & 31)
    union all
    select h.id, 'held in a wrong slot' from outbox_held h join outbox_event e on e.id = h.id
    where h.slot <> (hashtextextended(e.key, 0) & 31)
    union all
    select h.id, 'held under a wrong key' from outbox_held h join outbox_event e on e.id = h.id
    where (h.topic, h.key) <> (e.topic, e.key)
    union all
    select q.id, 'pending without an event' from outbox_pending q
    where not exists (select from outbox_event e where e.id = q.id)
    union all
    select p.id, 'published without an event' from outbox_published p
    where not exists (select from outbox_event e where e.id = p.id)
    union all
    select h.id, 'held without an event' from outbox_held h
    where not exists (select from outbox_event e where e.id = h.id)
    union all
    select h.id, 'blocked by nothing' from outbox_held h
    where h.cause = 'blocked' and h.discarded_at is null and not exists (
        select from outbox_held d where d.topic = h.topic and d.key = h.key
        and d.cause <> 'unavailable' and d.discarded_at is null and d.id < h.id)
    limit $1) o
left join outbox_event e on e.id = o.id
order by o.id";

/// Looks at every event and names at most `limit` offenders. Takes seconds per million events, and
/// is right at any moment: a move between tables is one statement.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn verify(conn: &mut AsyncPgConnection, limit: i64) -> Result<Verified, StorageError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        events: i64,
    }
    let mut transaction = conn.build_transaction().repeatable_read().read_only();
    let looked: Result<Verified, StorageError> = transaction
        .run(async |conn| {
            let Count { events } = sql_query("select count(*) as events from outbox_event")
                .get_result(conn)
                .await?;
            let offenders = sql_query(OFFENDERS)
                .bind::<BigInt, _>(limit)
                .load(conn)
                .await?;
            Ok(Verified { events, offenders })
        })
        .await;
    looked
}
