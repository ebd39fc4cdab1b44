//! Pending ids whose event somebody deleted by hand: there is nothing to send, and they would take
//! the place of what there is.

use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, SmallInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::batch::Orphan;
use crate::pg::error::StorageError;
use crate::pg::xid::Xid;

/// An event and its pending row are written in one transaction, so a reader of the row sees the
/// event too, or there is none. The statement checks it again: what is removed here is never sent.
const REMOVE: &str = "\
delete from outbox_pending p using unnest($1, $2, $3) d(slot, id, version)
where p.slot = d.slot and p.id = d.id and p.xmin = d.version
  and not exists (select from outbox_event e where e.id = p.id)";

/// Takes what a read found without an event out of the queue; returns how many went.
///
/// # Errors
/// When Postgres cannot be asked. Safe to repeat.
pub async fn remove_orphans(
    conn: &mut AsyncPgConnection,
    orphans: &[Orphan],
) -> Result<usize, StorageError> {
    let slots: Vec<i16> = orphans.iter().map(|orphan| orphan.slot.number()).collect();
    let ids: Vec<i64> = orphans.iter().map(|orphan| orphan.id).collect();
    let versions: Vec<_> = orphans.iter().map(|orphan| orphan.version.xmin).collect();
    Ok(sql_query(REMOVE)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<Xid>, _>(versions)
        .execute(conn)
        .await?)
}
