//! The statements on `lease_member` and `lease`. Time is Postgres' own.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Double, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{Member, MemberId, Snapshot, Unit};
use crate::pg::error::StorageError;

/// A unit that is owned, and the epoch it is owned under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Claim {
    #[diesel(sql_type = Integer)]
    pub unit: i32,
    #[diesel(sql_type = BigInt)]
    pub epoch: i64,
}

/// Makes sure that the scope has the units `0..count`; never removes one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn ensure_units(
    conn: &mut AsyncPgConnection,
    scope: &str,
    count: i32,
) -> Result<(), StorageError> {
    sql_query(
        "insert into lease (scope, unit) select $1, unit from generate_series(0, $2 - 1) unit \
         on conflict do nothing",
    )
    .bind::<Text, _>(scope)
    .bind::<Integer, _>(count)
    .execute(conn)
    .await?;
    Ok(())
}

const RENEW: &str = "\
with beat as (
    insert into lease_member (scope, member_id, ttl, expires_at)
    values ($1, $2, make_interval(secs => $3), clock_timestamp() + make_interval(secs => $3))
    on conflict (scope, member_id) do update
    set ttl = excluded.ttl, expires_at = clock_timestamp() + excluded.ttl)
select unit, epoch from lease where scope = $1 and owner = $2 order by unit";

/// The heartbeat: this member lives for another `ttl`. Returns what it still owns.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn renew(
    conn: &mut AsyncPgConnection,
    scope: &str,
    me: MemberId,
    ttl: Duration,
) -> Result<Vec<Claim>, StorageError> {
    Ok(sql_query(RENEW)
        .bind::<Text, _>(scope)
        .bind::<SqlUuid, _>(me.as_uuid())
        .bind::<Double, _>(ttl.as_secs_f64())
        .load(conn)
        .await?)
}

/// True of a row `m` of `lease_member` that is alive. A time further ahead than the member's own
/// ttl was written before the clock stepped back.
macro_rules! alive {
    () => {
        "m.expires_at > clock_timestamp() and m.expires_at <= clock_timestamp() + m.ttl"
    };
}

/// Reads both tables.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn snapshot(conn: &mut AsyncPgConnection, scope: &str) -> Result<Snapshot, StorageError> {
    #[derive(QueryableByName)]
    struct MemberRow {
        #[diesel(sql_type = SqlUuid)]
        member_id: Uuid,
        #[diesel(sql_type = Double)]
        expires_in: f64,
    }
    #[derive(QueryableByName)]
    struct UnitRow {
        #[diesel(sql_type = Integer)]
        unit: i32,
        #[diesel(sql_type = BigInt)]
        epoch: i64,
        #[diesel(sql_type = Nullable<SqlUuid>)]
        owner: Option<Uuid>,
    }
    // Units first: an owner that joins between the two reads is then seen as free, not as dead.
    let units: Vec<UnitRow> =
        sql_query("select unit, epoch, owner from lease where scope = $1 order by unit")
            .bind::<Text, _>(scope)
            .load(conn)
            .await?;
    let members: Vec<MemberRow> = sql_query(concat!(
        "select m.member_id, greatest(extract(epoch from m.expires_at - clock_timestamp()), 0)::float8 \
         as expires_in from lease_member m where m.scope = $1 and ",
        alive!()
    ))
    .bind::<Text, _>(scope)
    .load(conn)
    .await?;
    Ok(Snapshot {
        members: members
            .into_iter()
            .map(|row| Member {
                id: row.member_id.into(),
                expires_in: Duration::from_secs_f64(row.expires_in),
            })
            .collect(),
        units: units
            .into_iter()
            .map(|row| Unit {
                number: row.unit,
                epoch: row.epoch,
                owner: row.owner.map(MemberId::from),
            })
            .collect(),
    })
}

/// Whoever holds a row lock is taking that unit: it is left to them. A unit is taken only at the
/// epoch it was seen at, and only while its owner is still none, dead, or the one who takes it: a
/// member whose own clock ended a tenure needs a new epoch.
const CLAIM: &str = concat!(
    "\
with free as (
    select l.unit, l.epoch from lease l
    join unnest($3, $4) seen(unit, epoch) on seen.unit = l.unit and seen.epoch = l.epoch
    where l.scope = $1 and (l.owner = $2 or not exists (
        select from lease_member m where m.scope = l.scope and m.member_id = l.owner and ",
    alive!(),
    "))
    order by l.unit for update of l skip locked)
update lease l set owner = $2, epoch = l.epoch + 1 from free
where l.scope = $1 and l.unit = free.unit and l.epoch = free.epoch
returning l.unit, l.epoch"
);

/// Takes units that are free or this member's own, each seen at the given epoch; returns those it
/// got, with their new epochs.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn claim(
    conn: &mut AsyncPgConnection,
    scope: &str,
    me: MemberId,
    seen: &[(i32, i64)],
) -> Result<Vec<Claim>, StorageError> {
    let (units, epochs): (Vec<i32>, Vec<i64>) = seen.iter().copied().unzip();
    Ok(sql_query(CLAIM)
        .bind::<Text, _>(scope)
        .bind::<SqlUuid, _>(me.as_uuid())
        .bind::<Array<Integer>, _>(units)
        .bind::<Array<BigInt>, _>(epochs)
        .load(conn)
        .await?)
}

/// Gives units back, if this member still owns them; returns how many it did.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn release(
    conn: &mut AsyncPgConnection,
    scope: &str,
    me: MemberId,
    units: &[i32],
) -> Result<usize, StorageError> {
    Ok(sql_query(
        "update lease set owner = null where scope = $1 and owner = $2 and unit = any($3)",
    )
    .bind::<Text, _>(scope)
    .bind::<SqlUuid, _>(me.as_uuid())
    .bind::<Array<Integer>, _>(units)
    .execute(conn)
    .await?)
}

/// Leaves the scope: gives back whatever this member owns and removes its heartbeat.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn leave(
    conn: &mut AsyncPgConnection,
    scope: &str,
    me: MemberId,
) -> Result<(), StorageError> {
    sql_query(
        "with gone as (delete from lease_member where scope = $1 and member_id = $2) \
         update lease set owner = null where scope = $1 and owner = $2",
    )
    .bind::<Text, _>(scope)
    .bind::<SqlUuid, _>(me.as_uuid())
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the heartbeats of members that expired an hour ago or earlier: processes that only ever
/// crash never [`leave`]. One that was frozen for so long comes back with its next heartbeat.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn remove_expired_members(
    conn: &mut AsyncPgConnection,
    scope: &str,
) -> Result<(), StorageError> {
    sql_query(
        "delete from lease_member \
         where scope = $1 and expires_at < clock_timestamp() - interval '1 hour'",
    )
    .bind::<Text, _>(scope)
    .execute(conn)
    .await?;
    Ok(())
}
