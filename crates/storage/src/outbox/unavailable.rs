//! Events of partitions that cannot be written: where they lie, and moving them back to pending.
//!
//! They lie in groups: one for each slot, topic and [`Destination`]. What is above the lowest of its
//! group must not overtake it; the read tells which groups there are, in its own snapshot.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Integer, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::Slot;

use super::hold::Destination;
use crate::lease::MemberId;
use crate::pg::error::StorageError;

/// Unavailable events of one slot that were routed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnavailableGroup {
    pub slot: Slot,
    pub topic: String,
    pub destination: Destination,
    /// Id of the first.
    pub lowest: i64,
}

/// Plan: from group to group along `outbox_held_unavailable`, a probe for each.
pub const GROUPS: &str = "\
select s.slot, g.topic, g.partition_count, g.partition, g.id from unnest($1) s(slot)
cross join lateral (
    with recursive g as (
        (select h.topic, h.partition_count, h.partition, h.id from outbox_held h
         where h.slot = s.slot and h.cause = 'unavailable'
         order by h.slot, h.topic, h.partition_count, h.partition, h.id limit 1)
        union all
        select n.* from g cross join lateral (
            select h.topic, h.partition_count, h.partition, h.id from outbox_held h
            where h.slot = s.slot and h.cause = 'unavailable'
              and (h.topic, h.partition_count, h.partition) > (g.topic, g.partition_count, g.partition)
            order by h.slot, h.topic, h.partition_count, h.partition, h.id limit 1) n)
    select * from g) g";

/// The groups of unavailable events in these slots, by slot, topic and destination.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unavailable_groups(
    conn: &mut AsyncPgConnection,
    slots: &[Slot],
) -> Result<Vec<UnavailableGroup>, StorageError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SmallInt)]
        slot: i16,
        #[diesel(sql_type = Text)]
        topic: String,
        #[diesel(embed)]
        destination: Destination,
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let slots: Vec<i16> = slots.iter().map(|slot| slot.number()).collect();
    let rows: Vec<Row> = sql_query(GROUPS)
        .bind::<Array<SmallInt>, _>(slots)
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(UnavailableGroup {
                slot: slot_from(row.slot, "outbox_held.slot")?,
                topic: row.topic,
                destination: row.destination,
                lowest: row.id,
            })
        })
        .collect()
}

pub(super) fn slot_from(slot: i16, column: &'static str) -> Result<Slot, StorageError> {
    Slot::try_from(i32::from(slot)).map_err(|e| StorageError::Unreadable {
        column,
        reason: e.to_string(),
    })
}

/// Only under the lease: the row of the unit is locked before anything moves. What is pending
/// already, because somebody inserted the id by hand, stays as it is. Plan: a walk along
/// `outbox_held_unavailable` for each destination, as far as the limit, and the rows from their places,
/// where a row that changed meanwhile no longer lies; no event is read.
pub const MOVE_BACK: &str = "\
with owned as materialized (
    select l.unit from lease l
    where l.scope = $1 and l.owner = $2 and l.unit = $3 and l.epoch = $4 for share),
lowest as materialized (
    select n.place from unnest($6, $7) d(partition_count, partition)
    cross join lateral (
        select h.id, h.ctid as place from outbox_held h
        where h.slot = $3::smallint and h.topic = $5 and h.partition_count = d.partition_count
          and h.partition = d.partition and h.id >= $9 and h.cause = 'unavailable'
        order by h.slot, h.topic, h.partition_count, h.partition, h.id limit $8) n
    where exists (select from owned)
    order by n.id limit $8),
moved as (
    delete from outbox_held h
    where h.ctid = any(array(select place from lowest))
    returning h.slot, h.id, h.bytes),
queued as (
    insert into outbox_pending (slot, id, bytes) select slot, id, bytes from moved
    on conflict (slot, id) do nothing)
select count(*) as moved from moved";

/// Unavailable events of a topic that were routed to one of some destinations.
#[derive(Debug, Clone, Copy)]
pub struct MoveFrom<'a> {
    pub topic: &'a str,
    pub destinations: &'a [Destination],
    /// No event of them is to be looked for below this id.
    pub lowest: i64,
}

/// Moves the lowest of these unavailable events in an owned slot back to pending, `limit` at most. Returns how many moved: none where the slot is
/// not owned under this epoch.
///
/// # Errors
/// When Postgres cannot be asked; nothing moved then, unless the connection broke while committing.
pub async fn move_back(
    conn: &mut AsyncPgConnection,
    scope: &str,
    member: MemberId,
    (slot, epoch): (Slot, i64),
    from: MoveFrom<'_>,
    limit: i64,
) -> Result<i64, StorageError> {
    #[derive(QueryableByName)]
    struct Moved {
        #[diesel(sql_type = BigInt)]
        moved: i64,
    }
    let (counts, partitions): (Vec<i32>, Vec<i32>) = from
        .destinations
        .iter()
        .map(|d| (d.partition_count, d.partition))
        .unzip();
    let moved: Moved = sql_query(MOVE_BACK)
        .bind::<Text, _>(scope)
        .bind::<SqlUuid, _>(member.as_uuid())
        .bind::<Integer, _>(i32::from(slot.number()))
        .bind::<BigInt, _>(epoch)
        .bind::<Text, _>(from.topic)
        .bind::<Array<Integer>, _>(counts)
        .bind::<Array<Integer>, _>(partitions)
        .bind::<BigInt, _>(limit)
        .bind::<BigInt, _>(from.lowest)
        .get_result(conn)
        .await?;
    Ok(moved.moved)
}
