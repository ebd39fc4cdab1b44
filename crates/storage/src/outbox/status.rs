//! How much waits, where and since when, at a cost that does not grow with it.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Double, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::{EventState, Slot};
use uuid::Uuid;

use super::held::HeldState;
use super::unavailable::slot_from;
use crate::lease::MemberId;
use crate::pg::error::StorageError;

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
    pub blocked: i64,
    #[diesel(sql_type = BigInt)]
    pub unavailable: i64,
    #[diesel(sql_type = BigInt)]
    pub discarded: i64,
}

impl HeldCounts {
    /// All of them, the discarded included.
    pub fn total(&self) -> i64 {
        self.dead + self.blocked + self.unavailable + self.discarded
    }
}

/// Plan: a walk along `outbox_held_pkey` that ends at the bound.
pub const HELD_COUNTS: &str = "\
select count(*) filter (where h.discarded_at is not null) as discarded,
       count(*) filter (where h.cause = 'dead' and h.discarded_at is null) as dead,
       count(*) filter (where h.cause = 'blocked') as blocked,
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

/// The first pending event of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowestPending {
    pub slot: Slot,
    pub id: i64,
    pub topic: String,
    pub key: String,
}

/// Plan: per slot the first entry of a walk along `outbox_pending_pkey`.
pub const LOWEST_PENDING: &str = "\
select s.slot, e.id, e.topic, e.key from unnest($1) s(slot)
cross join lateral (select p.id from outbox_pending p where p.slot = s.slot
                    order by p.slot, p.id limit 1) first
join outbox_event e using (id)";

/// The first pending event of each of these slots that has one. Where dead entries cannot be vacuumed
/// each slot costs a walk over its own: ask for few at a time.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn lowest_pending(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
) -> Result<Vec<LowestPending>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SmallInt)]
        slot: i16,
        #[diesel(sql_type = BigInt)]
        id: i64,
        #[diesel(sql_type = Text)]
        topic: String,
        #[diesel(sql_type = Text)]
        key: String,
    }
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    let rows: Vec<Row> = sql_query(LOWEST_PENDING)
        .bind::<Array<SmallInt>, _>(slots)
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(LowestPending {
                slot: slot_from(row.slot, "outbox_pending.slot")?,
                id: row.id,
                topic: row.topic,
                key: row.key,
            })
        })
        .collect()
}

/// Which of these events, given by slot and id, still wait: pending, or held as unavailable. Plan: a
/// look-up by primary key for each.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn still_waiting(
    conn: &mut AsyncPgConnection,
    events: &[(Slot, i64)],
) -> Result<HashSet<i64>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let (slots, ids): (Vec<i16>, Vec<i64>) =
        events.iter().map(|(slot, id)| (slot.number(), *id)).unzip();
    let rows: Vec<Row> = sql_query(
        "select n.id from unnest($1, $2) n(slot, id) \
         where exists (select from outbox_pending p where p.slot = n.slot and p.id = n.id) \
            or exists (select from outbox_held h where h.id = n.id and h.cause = 'unavailable')",
    )
    .bind::<Array<SmallInt>, _>(slots)
    .bind::<Array<BigInt>, _>(ids)
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// The slots that a member answers for, ascending: those that the table says are its own, whatever it
/// believes, and those of no living member.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn slots_to_watch(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
) -> Result<Vec<Slot>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SmallInt)]
        slot: i16,
    }
    let rows: Vec<Row> = sql_query(
        "select s.slot::smallint as slot from generate_series(0, 31) s(slot) \
         left join lease l on l.scope = $1 and l.unit = s.slot \
         where l.owner = $2 or not exists ( \
             select from lease_member m where m.scope = l.scope and m.member_id = l.owner \
             and m.expires_at > clock_timestamp() and m.expires_at <= clock_timestamp() + m.ttl) \
         order by s.slot",
    )
    .bind::<Text, _>(scope)
    .bind::<SqlUuid, _>(member.as_uuid())
    .load(conn)
    .await?;
    rows.into_iter()
        .map(|row| slot_from(row.slot, "lease.unit"))
        .collect()
}

/// For how long the oldest event of a state has waited.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct StateAge {
    /// Pending, dead, blocked or unavailable.
    #[diesel(sql_type = Text, deserialize_as = HeldState)]
    pub state: EventState,
    /// Since the event was written.
    #[diesel(sql_type = Double)]
    pub seconds: f64,
}

/// Ids are drawn in the order of time, so the lowest of a state is its oldest. Plan: the first entry
/// of each slot; a walk along `outbox_held_pkey` to the first of each cause.
const OLDEST_BY_STATE: &str = "\
select o.state, extract(epoch from clock_timestamp() - o.created_at)::float8 as seconds from (
    select 'pending' as state, min(e.created_at) as created_at
    from generate_series(0, 31) s(slot)
    cross join lateral (select p.id from outbox_pending p where p.slot = s.slot
                        order by p.slot, p.id limit 1) first
    join outbox_event e using (id)
    union all
    select c.cause, e.created_at from unnest(array['dead', 'blocked', 'unavailable']) c(cause)
    cross join lateral (select h.id from outbox_held h
                        where h.cause = c.cause and h.discarded_at is null
                        order by h.id limit 1) first
    join outbox_event e using (id)) o
where o.created_at is not null";

/// For how long the oldest event of each state has waited; states without an event are left out.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn oldest_by_state(conn: &mut AsyncPgConnection) -> Result<Vec<StateAge>, StorageError> {
    Ok(sql_query(OLDEST_BY_STATE).load(conn).await?)
}
