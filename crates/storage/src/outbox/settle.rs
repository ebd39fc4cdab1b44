//! Recording what Kafka acknowledged: a fact, which needs no lease.

use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{Array, BigInt, Integer, SmallInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::Slot;

use crate::pg::cached::cached;
use crate::pg::error::StorageError;
use crate::pg::xid::{Ctid, RowVersion, Tid, Xid, Xmin};

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

/// Plan: each row is fetched from its place, without a descent through an index. Nothing is in
/// `outbox_published` that was pending a moment ago, so no conflict is looked for either: that alone
/// costs a quarter of the statement.
pub const SETTLE: &str = "\
with moved as (
    delete from outbox_pending p
    using unnest($1, $2, $3, $4, $5) d(id, writer, place, kafka_partition, kafka_offset)
    where p.ctid = d.place and p.id = d.id and p.xmin = d.writer
    returning p.id, d.kafka_partition, d.kafka_offset)
insert into outbox_published (id, kafka_partition, kafka_offset)
select id, kafka_partition, kafka_offset from moved";

/// The same for rows that lie elsewhere by now (`vacuum full` rewrites the table), and for ids that
/// somebody put into both tables by hand. Plan: one look-up in `outbox_pending_pkey` per event, in
/// the order given.
pub const SETTLE_BY_ID: &str = "\
with moved as (
    delete from outbox_pending p
    using unnest($1, $2, $3, $4, $5) d(slot, id, writer, kafka_partition, kafka_offset)
    where p.slot = d.slot and p.id = d.id and p.xmin = d.writer
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
    let columns = Columns::of(events);
    let moved = cached(SETTLE)
        .bind::<Array<BigInt>, _>(&columns.ids)
        .bind::<Array<Xid>, _>(&columns.writers)
        .bind::<Array<Tid>, _>(&columns.places)
        .bind::<Array<Integer>, _>(&columns.partitions)
        .bind::<Array<BigInt>, _>(&columns.offsets)
        .execute(conn)
        .await;
    let moved = match moved {
        Ok(moved) if moved == events.len() => return Ok(moved),
        Ok(moved) => moved,
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => 0,
        Err(error) => return Err(error.into()),
    };
    let found = cached(SETTLE_BY_ID)
        .bind::<Array<SmallInt>, _>(&columns.slots)
        .bind::<Array<BigInt>, _>(&columns.ids)
        .bind::<Array<Xid>, _>(&columns.writers)
        .bind::<Array<Integer>, _>(&columns.partitions)
        .bind::<Array<BigInt>, _>(&columns.offsets)
        .execute(conn)
        .await?;
    Ok(moved + found)
}

struct Columns {
    slots: Vec<i16>,
    ids: Vec<i64>,
    writers: Vec<Xmin>,
    places: Vec<Ctid>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
}

impl Columns {
    fn of(events: &[Settled]) -> Self {
        Self {
            slots: events.iter().map(|e| e.slot.number()).collect(),
            ids: events.iter().map(|e| e.id).collect(),
            writers: events.iter().map(|e| e.version.xmin).collect(),
            places: events.iter().map(|e| e.version.ctid).collect(),
            partitions: events.iter().map(|e| e.partition).collect(),
            offsets: events.iter().map(|e| e.offset).collect(),
        }
    }
}
