//! How much waits, where and since when, at a cost that does not grow with it.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Double, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::Slot;
use uuid::Uuid;

use crate::error::StorageError;

/// What is still to publish.
#[derive(Debug, Clone, Copy, PartialEq, QueryableByName)]
pub struct Backlog {
    /// Pending events, counted up to the bound only.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
    /// Age of the oldest pending event in seconds, `None` when nothing is pending. A replayed event
    /// is as old as it is.
    #[diesel(sql_type = Nullable<Double>)]
    pub oldest_seconds: Option<f64>,
}

/// Plan: an index-only count that ends at the bound, and one first entry per slot.
pub const BACKLOG: &str = "\
select (select count(*) from (select from outbox_pending limit $1) p) as pending,
       (select extract(epoch from clock_timestamp() - min(e.created_at))::float8
        from generate_series(0, 31) s(slot)
        cross join lateral (select p.id from outbox_pending p where p.slot = s.slot
                            order by p.slot, p.id limit 1) first
        join outbox_event e using (id)) as oldest_seconds";

/// Measures the backlog, counting no further than `bound`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn backlog(conn: &mut AsyncPgConnection, bound: i64) -> Result<Backlog, StorageError> {
    Ok(sql_query(BACKLOG)
        .bind::<BigInt, _>(bound)
        .get_result(conn)
        .await?)
}

/// Held events by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct HeldCounts {
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    #[diesel(sql_type = BigInt)]
    pub behind: i64,
    #[diesel(sql_type = BigInt)]
    pub unavailable: i64,
    #[diesel(sql_type = BigInt)]
    pub discarded: i64,
}

impl HeldCounts {
    /// All of them, the discarded included.
    pub fn total(&self) -> i64 {
        self.dead + self.behind + self.unavailable + self.discarded
    }
}

/// Plan: a walk along `outbox_held_pkey` that ends at the bound.
pub const HELD_COUNTS: &str = "\
select count(*) filter (where h.discarded_at is not null) as discarded,
       count(*) filter (where h.cause = 'dead' and h.discarded_at is null) as dead,
       count(*) filter (where h.cause = 'behind') as behind,
       count(*) filter (where h.cause = 'unavailable') as unavailable
from (select cause, discarded_at from outbox_held order by id limit $1) h";

/// Counts the held events by cause, among the `bound` oldest.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn held_counts(
    conn: &mut AsyncPgConnection,
    bound: i64,
) -> Result<HeldCounts, StorageError> {
    Ok(sql_query(HELD_COUNTS)
        .bind::<BigInt, _>(bound)
        .get_result(conn)
        .await?)
}

/// Counts the published events, no further than `bound`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn published_count(
    conn: &mut AsyncPgConnection,
    bound: i64,
) -> Result<i64, StorageError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        events: i64,
    }
    let count: Count =
        sql_query("select count(*) as events from (select from outbox_published limit $1) p")
            .bind::<BigInt, _>(bound)
            .get_result(conn)
            .await?;
    Ok(count.events)
}

/// One slot: who works on it and what waits there.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct SlotStatus {
    #[diesel(sql_type = SmallInt)]
    pub slot: i16,
    /// The member that owns it, dead or alive.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub owner: Option<Uuid>,
    /// Until the owner is presumed dead, in seconds; `None` when it is already, or there is none.
    #[diesel(sql_type = Nullable<Double>)]
    pub expires_in_seconds: Option<f64>,
    #[diesel(sql_type = BigInt)]
    pub epoch: i64,
    /// Pending events, counted up to the bound only.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
}

const SLOTS: &str = "\
select s.slot::smallint as slot, l.owner, coalesce(l.epoch, 0) as epoch,
       extract(epoch from m.expires_at - clock_timestamp())::float8 as expires_in_seconds,
       (select count(*) from (select from outbox_pending p where p.slot = s.slot
                              order by p.slot, p.id limit $2) p) as pending
from generate_series(0, 31) s(slot)
left join lease l on l.scope = $1 and l.unit = s.slot
left join lease_member m on m.scope = l.scope and m.member_id = l.owner
    and m.expires_at > clock_timestamp() and m.expires_at <= clock_timestamp() + m.ttl
order by s.slot";

/// All slots, ascending, counting no further than `bound` in each.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn slots(
    conn: &mut AsyncPgConnection,
    scope: &str,
    bound: i64,
) -> Result<Vec<SlotStatus>, StorageError> {
    Ok(sql_query(SLOTS)
        .bind::<Text, _>(scope)
        .bind::<BigInt, _>(bound)
        .load(conn)
        .await?)
}

/// An event that nothing stands in the way of, but a relay that is at work.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Sendable {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Text)]
    pub key: String,
}

/// Plan: per slot a walk along `outbox_pending_pkey` that ends at the first event without a held
/// one before it, at the bound at the latest.
pub const FIRST_SENDABLE: &str = "\
select n.id, n.topic, n.key from unnest($1) s(slot)
cross join lateral (
    select e.id, e.topic, e.key from (
        select p.id from outbox_pending p where p.slot = s.slot order by p.slot, p.id limit $2) q
    join outbox_event e on e.id = q.id
    where not exists (select from outbox_held h where h.topic = e.topic and h.key = e.key
                      and h.id < e.id and h.discarded_at is null)
    limit 1) n
order by n.id limit 1";

/// An event among the first `bound` of one of these slots that could be sent: the oldest there is.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn first_sendable(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
    bound: i64,
) -> Result<Option<Sendable>, StorageError> {
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    Ok(sql_query(FIRST_SENDABLE)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<BigInt, _>(bound)
        .get_result(conn)
        .await
        .optional()?)
}
