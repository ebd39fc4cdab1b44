//! The lock that decisions about a key take: holding, re-driving, discarding, moving back.
//!
//! Facts (what Kafka acknowledged) need none.

use diesel::sql_query;
use diesel::sql_types::{Array, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::pg::error::StorageError;

/// Ascending, so that two transactions with several keys cannot deadlock.
const LOCK: &str = "\
select pg_advisory_xact_lock(h.hash) from (
    select distinct hashtextextended(k.topic || chr(31) || k.key, 7) as hash
    from unnest($1, $2) k(topic, key) order by 1) h";

/// Locks each (topic, key) until the transaction ends. Waits half a second at most: a decision can
/// always be taken later.
///
/// # Errors
/// When Postgres cannot be asked, or a lock is not to be had in time; the transaction is void then.
pub(crate) async fn lock_keys(
    conn: &mut AsyncPgConnection,
    keys: &[(&str, &str)],
) -> Result<(), StorageError> {
    let (topics, keys): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
    sql_query("set local lock_timeout = '500ms'")
        .execute(conn)
        .await?;
    sql_query(LOCK)
        .bind::<Array<Text>, _>(topics)
        .bind::<Array<Text>, _>(keys)
        .execute(conn)
        .await?;
    Ok(())
}
