//! Whether a relay may work on this database at all.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::migrations::ForeignEncoding;
use crate::pg::error::StorageError;

/// Why a relay must not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0}")]
    Encoding(#[from] ForeignEncoding),
    #[error("the database is a standby; DATABASE_URL must name the primary")]
    Standby,
    #[error(
        "session settings do not stay with the connection; DATABASE_URL must name Postgres itself \
         or a pooler in session mode"
    )]
    TransactionPooler,
    #[error(
        "the identity of outbox_event is {last_value}, below its highest id {highest}: \
         new events would get lower ids than older ones; run \
         select setval(pg_get_serial_sequence('outbox_event', 'id'), {highest})"
    )]
    SequenceBehind { last_value: i64, highest: i64 },
    #[error(
        "hashtextextended gives other values here than where this schema was made; slot numbers \
         depend on it"
    )]
    ForeignHash,
    #[error("outbox_sample_hash is empty; it is part of the data and must be copied with it")]
    NoSampleHash,
}

/// Checks the database behind `conn`; `Ok(None)` when a relay may work on it.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn check_fitness(conn: &mut AsyncPgConnection) -> Result<Option<Unfit>, StorageError> {
    #[derive(QueryableByName)]
    struct Server {
        #[diesel(sql_type = Bool)]
        standby: bool,
        #[diesel(sql_type = Text)]
        encoding: String,
        #[diesel(sql_type = Text)]
        seen: String,
    }
    #[derive(QueryableByName)]
    struct Data {
        #[diesel(sql_type = Nullable<Bool>)]
        same_hash: Option<bool>,
        #[diesel(sql_type = BigInt)]
        last_value: i64,
        #[diesel(sql_type = BigInt)]
        highest: i64,
    }
    // Two statements outside a transaction: behind a transaction pooler the second may reach
    // another server session, or one whose settings were reset.
    let token = uuid::Uuid::now_v7().to_string();
    conn.batch_execute(&format!("set outbox.session_check = '{token}'"))
        .await?;
    let server: Server = sql_query(
        "select pg_is_in_recovery() as standby, current_setting('server_encoding') as encoding, \
         coalesce(current_setting('outbox.session_check', true), '') as seen",
    )
    .get_result(conn)
    .await?;
    if let Err(foreign) = ForeignEncoding::check(&server.encoding) {
        return Ok(Some(foreign.into()));
    }
    if server.standby {
        return Ok(Some(Unfit::Standby));
    }
    if server.seen != token {
        return Ok(Some(Unfit::TransactionPooler));
    }
    let data: Data = sql_query(
        "select (select hashtextextended(key, 0) = hash from outbox_sample_hash) as same_hash, \
         coalesce(pg_sequence_last_value(pg_get_serial_sequence('outbox_event', 'id')::regclass), 0) \
         as last_value, coalesce((select max(id) from outbox_event), 0) as highest",
    )
    .get_result(conn)
    .await?;
    Ok(match data.same_hash {
        None => Some(Unfit::NoSampleHash),
        Some(false) => Some(Unfit::ForeignHash),
        Some(true) if data.last_value < data.highest => Some(Unfit::SequenceBehind {
            last_value: data.last_value,
            highest: data.highest,
        }),
        Some(true) => None,
    })
}
