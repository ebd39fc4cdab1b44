//! Who waits, without reading for whom.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, SmallInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::Slot;

use crate::error::StorageError;

/// The lowest and the highest pending events of each slot. Plan: one walk along
/// `outbox_pending_pkey` from each end.
const ENDS: &str = "\
select distinct e.topic, e.key
from unnest($1) s(slot)
cross join lateral (
    (select p.id from outbox_pending p where p.slot = s.slot order by p.slot, p.id limit $2)
    union all
    (select p.id from outbox_pending p where p.slot = s.slot
     order by p.slot desc, p.id desc limit $2)) n
join outbox_event e on e.id = n.id";

/// The topics and keys among the pending events at both ends of each slot, in flight or not: who
/// waits behind a partition that does not move. At most `per_end` events of each end are looked at.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn waiting_keys(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
    per_end: i64,
) -> Result<Vec<(String, String)>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        topic: String,
        #[diesel(sql_type = Text)]
        key: String,
    }
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    let rows: Vec<Row> = sql_query(ENDS)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<BigInt, _>(per_end)
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.topic, row.key)).collect())
}
