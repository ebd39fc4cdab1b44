//! How much waits, at a bounded cost.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Nullable};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::error::StorageError;

/// What waits in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, QueryableByName)]
pub struct Backlog {
    /// Pending events, counted up to the bound only.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
    /// Age of the oldest pending event in seconds, `None` when nothing is pending.
    #[diesel(sql_type = Nullable<Double>)]
    pub oldest_seconds: Option<f64>,
    /// Held events, counted up to the bound only.
    #[diesel(sql_type = BigInt)]
    pub held: i64,
}

/// Plan: index-only counts that end at the bound, and one first entry per slot.
const BACKLOG: &str = "\
select (select count(*) from (select from outbox_pending limit $1) p) as pending,
       (select count(*) from (select from outbox_held where discarded_at is null limit $1) h) as held,
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
