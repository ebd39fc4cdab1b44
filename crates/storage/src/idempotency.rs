//! The table `idempotency_key`: the answers that were given under a client's key.
//!
//! To place an order under a key, a transaction first locks the key without waiting. A locked key
//! belongs to a request in progress, in this process or another. Nothing waits, so transactions
//! with several keys cannot block each other or deadlock.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Double, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::OrderId;
use uuid::Uuid;

use crate::pg::cached::cached;
use crate::pg::error::StorageError;

/// An answer under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    pub key: String,
    /// SHA-256 of what was asked.
    pub request_hash: Vec<u8>,
    /// HTTP status.
    pub status: i16,
    /// Body, byte for byte.
    pub response: String,
    pub order: OrderId,
}

/// What a look at a key found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// Nobody has used it; it is locked until the transaction ends.
    Free,
    /// Another transaction is using it.
    InFlight,
    /// It has been used.
    Kept(KeptAnswer),
}

/// Locks of other tables' keys are hashed with other seeds.
const LOCK: &str = "\
select k.key, pg_try_advisory_xact_lock(hashtextextended(k.key, 4893801)) as locked
from unnest($1) as k(key)";

/// By primary key. A statement after the locks, so that it sees what their last holder committed.
const KEPT: &str = "\
select key, request_hash, status, response, order_id from idempotency_key
where key = any($1) and created_at > now() - make_interval(secs => $2)";

/// A row that is in the way has outlived its lifetime and was not cleaned yet.
const KEEP: &str = "\
insert into idempotency_key as old (key, request_hash, status, response, order_id)
select * from unnest($1, $2, $3, $4, $5)
on conflict (key) do update
set request_hash = excluded.request_hash, status = excluded.status, response = excluded.response,
    order_id = excluded.order_id, created_at = excluded.created_at
where old.created_at <= now() - make_interval(secs => $6)";

/// Plan: a walk along the index on `created_at`, then look-ups by key; as a join, the planner may
/// prefer to walk all keys.
const DELETE_EXPIRED: &str = "\
delete from idempotency_key where key = any(array(
    select key from idempotency_key where created_at <= now() - make_interval(secs => $1)
    order by created_at limit $2 for update skip locked))";

#[derive(QueryableByName)]
struct Lock {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Bool)]
    locked: bool,
}

#[derive(QueryableByName)]
struct Kept {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Binary)]
    request_hash: Vec<u8>,
    #[diesel(sql_type = SmallInt)]
    status: i16,
    #[diesel(sql_type = Text)]
    response: String,
    #[diesel(sql_type = SqlUuid)]
    order_id: Uuid,
}

/// Claims keys for this transaction, in the order given. A key must be given once only, and a row
/// counts for `lifetime`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn claim(
    conn: &mut AsyncPgConnection,
    keys: &[&str],
    lifetime: Duration,
) -> Result<Vec<KeyState>, StorageError> {
    let mut conn = &*conn;
    let mut second = conn;
    let locks = cached(LOCK)
        .bind::<Array<Text>, _>(keys)
        .load::<Lock>(&mut conn);
    let kept = cached(KEPT)
        .bind::<Array<Text>, _>(keys)
        .bind::<Double, _>(lifetime.as_secs_f64())
        .load::<Kept>(&mut second);
    // One after the other in one round trip.
    let (locks, kept) = futures::join!(locks, kept);
    let (locks, mut kept) = (locks?, kept?);
    let claim = |key: &&str| {
        if let Some(found) = kept.iter().position(|row| row.key == **key) {
            let row = kept.swap_remove(found);
            return KeyState::Kept(KeptAnswer {
                key: row.key,
                request_hash: row.request_hash,
                status: row.status,
                response: row.response,
                order: row.order_id.into(),
            });
        }
        let locked = locks.iter().any(|lock| lock.key == **key && lock.locked);
        if locked {
            KeyState::Free
        } else {
            KeyState::InFlight
        }
    };
    Ok(keys.iter().map(claim).collect())
}

/// Keeps answers under keys that this transaction has claimed and found free.
///
/// # Errors
/// When a key is taken all the same, or Postgres cannot be asked.
pub async fn keep(
    conn: &mut AsyncPgConnection,
    answers: &[&KeptAnswer],
    lifetime: Duration,
) -> Result<(), StorageError> {
    let keys: Vec<&str> = answers.iter().map(|a| &*a.key).collect();
    let hashes: Vec<&[u8]> = answers.iter().map(|a| &*a.request_hash).collect();
    let statuses: Vec<i16> = answers.iter().map(|a| a.status).collect();
    let responses: Vec<&str> = answers.iter().map(|a| &*a.response).collect();
    let orders: Vec<Uuid> = answers.iter().map(|a| a.order.as_uuid()).collect();
    let kept = cached(KEEP)
        .bind::<Array<Text>, _>(keys)
        .bind::<Array<Binary>, _>(hashes)
        .bind::<Array<SmallInt>, _>(statuses)
        .bind::<Array<Text>, _>(responses)
        .bind::<Array<SqlUuid>, _>(orders)
        .bind::<Double, _>(lifetime.as_secs_f64())
        .execute(conn)
        .await?;
    if kept == answers.len() {
        Ok(())
    } else {
        Err(StorageError::Unreadable {
            column: "idempotency_key.key",
            reason: "taken by somebody who did not lock it".to_owned(),
        })
    }
}

/// Deletes up to `limit` rows that are older than `lifetime`, oldest first; returns how many.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn delete_expired(
    conn: &mut AsyncPgConnection,
    lifetime: Duration,
    limit: u32,
) -> Result<usize, StorageError> {
    Ok(cached(DELETE_EXPIRED)
        .bind::<Double, _>(lifetime.as_secs_f64())
        .bind::<BigInt, _>(i64::from(limit))
        .execute(conn)
        .await?)
}
