//! What holds the snapshot horizon back: while it stands, what is deleted from the queue cannot be
//! vacuumed, and reads walk over it.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Double, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::pg::error::StorageError;

/// Somebody who holds the horizon back.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct HorizonHolder {
    /// In words: `session 4711 (psql)`, `prepared transaction x`, `replication slot y`.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The transaction id it holds back. It moves when the holder makes way.
    #[diesel(sql_type = Text)]
    pub transaction: String,
    /// For how long, in seconds; `None` when Postgres does not say: of a replication slot it never
    /// knows, of somebody else's session it tells superusers and members of `pg_read_all_stats`.
    #[diesel(sql_type = Nullable<Double>)]
    pub seconds: Option<f64>,
}

/// Transaction ids and snapshots of all sessions are shown to everybody, their times are not.
/// Snapshots of vacuum itself hold nothing back; neither do those of other databases.
const HOLDERS: &str = "\
select h.name, h.xid::text as transaction, h.seconds from (
    select format('session %s (%s)', a.pid, a.application_name) as name,
           case when age(a.backend_xid) > age(a.backend_xmin) then a.backend_xid
                else coalesce(a.backend_xmin, a.backend_xid) end as xid,
           extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
    from pg_stat_activity a
    where (a.backend_xid is not null or a.backend_xmin is not null)
      and a.pid <> pg_backend_pid() and (a.datname = current_database() or a.datname is null)
      and a.backend_type is distinct from 'autovacuum worker'
    union all
    select format('prepared transaction %s', p.gid), p.transaction,
           extract(epoch from clock_timestamp() - p.prepared)::float8
    from pg_prepared_xacts p where p.database = current_database()
    union all
    select format('replication slot %s', s.slot_name), s.xmin, null
    from pg_replication_slots s where s.xmin is not null) h
order by age(h.xid) desc, h.seconds desc nulls last limit 10";

/// The ten that hold the horizon back furthest, the furthest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn horizon_holders(
    conn: &mut AsyncPgConnection,
) -> Result<Vec<HorizonHolder>, StorageError> {
    Ok(sql_query(HOLDERS).load(conn).await?)
}
