//! The lock that decisions about held records of a key take.

use diesel::sql_types::{Array, BigInt, Binary, Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::pg::cached::cached;
use crate::pg::error::StorageError;

/// Keys share 64 locks: a batch of any size takes no more than that of the server's lock table, and
/// what two keys share costs a short wait. Ascending, so that two transactions with several keys
/// cannot deadlock. The number keeps these locks apart from everybody else's.
const LOCK: &str = "\
select case when $1 then pg_advisory_xact_lock_shared($2 + h.stripe) else pg_advisory_xact_lock($2 + h.stripe) end
from (select distinct hashtextextended($3 || chr(31) || $4 || chr(31) || encode(sha256(k.key), 'hex'), 11) & 63 as stripe
      from unnest($5) k(key) order by 1) h";

/// `inboxkey` in hexadecimal, with room below for the stripe.
const BASE: i64 = 0x696e_626f_786b_6500;

/// Who locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Owners of partitions may hold a key's lock together: none of them settles.
    Owner,
    /// A command is alone with the key.
    Command,
}

/// Locks keys of a group's topic until the transaction ends.
pub(super) async fn lock(
    conn: &mut AsyncPgConnection,
    (group, topic): (&str, &str),
    keys: &[&[u8]],
    by: By,
) -> Result<(), StorageError> {
    cached(LOCK)
        .bind::<Bool, _>(by == By::Owner)
        .bind::<BigInt, _>(BASE)
        .bind::<Text, _>(group)
        .bind::<Text, _>(topic)
        .bind::<Array<Binary>, _>(keys)
        .execute(conn)
        .await?;
    Ok(())
}
