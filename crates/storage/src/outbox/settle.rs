//! Recording what Kafka acknowledged: a fact, which needs no lease.

use diesel::sql_types::{Array, BigInt, Integer, SmallInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::Slot;

use crate::cached::cached;
use crate::error::StorageError;
use crate::xid::{RowVersion, Xid};

/// An event that Kafka has, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub slot: Slot,
    pub id: i64,
    /// The version of the pending row that was read: a late mark must not undo a replay.
    pub version: RowVersion,
    pub partition: i32,
    pub offset: i64,
}

/// Plan: one look-up in `outbox_pending_pkey` per event, in the order given.
pub const SETTLE: &str = "\
with moved as (
    delete from outbox_pending p
    using unnest(?, ?, ?, ?, ?) d(slot, id, version, kafka_partition, kafka_offset)
    where p.slot = d.slot and p.id = d.id and p.xmin = d.version
    returning p.id, d.kafka_partition, d.kafka_offset)
insert into outbox_published (id, kafka_partition, kafka_offset)
select id, kafka_partition, kafka_offset from moved
on conflict (id) do nothing";

/// Moves events from pending to published, and returns how many moved: those that somebody else
/// settled meanwhile do not. Sorts its argument by id, so that two settlers cannot deadlock.
///
/// # Errors
/// When Postgres cannot be asked. Safe to repeat.
pub async fn settle(
    conn: &mut AsyncPgConnection,
    events: &mut [Settled],
) -> Result<usize, StorageError> {
    events.sort_unstable_by_key(|event| event.id);
    let slots: Vec<i16> = events.iter().map(|e| e.slot.number()).collect();
    let ids: Vec<i64> = events.iter().map(|e| e.id).collect();
    let versions: Vec<RowVersion> = events.iter().map(|e| e.version).collect();
    let partitions: Vec<i32> = events.iter().map(|e| e.partition).collect();
    let offsets: Vec<i64> = events.iter().map(|e| e.offset).collect();
    Ok(cached(SETTLE)
        .bind::<Array<SmallInt>, _>(slots)
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<Xid>, _>(versions)
        .bind::<Array<Integer>, _>(partitions)
        .bind::<Array<BigInt>, _>(offsets)
        .execute(conn)
        .await?)
}
