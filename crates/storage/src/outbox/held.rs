//! Lists held events, for the operator who decides on them.

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::{EventId, EventState};
use time::OffsetDateTime;
use uuid::Uuid;

use super::redrive::TopicKey;
use crate::pg::error::StorageError;
use crate::pg::name::named;

/// An event that is held or discarded.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct HeldEvent {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = SqlUuid)]
    pub event_id: Uuid,
    #[diesel(embed)]
    pub of: TopicKey,
    #[diesel(sql_type = Text)]
    pub event_type: String,
    /// Dead, blocked, unavailable or discarded.
    #[diesel(sql_type = Text, deserialize_as = HeldState)]
    pub state: EventState,
    /// What Kafka or the client said.
    #[diesel(sql_type = Nullable<Text>)]
    pub error: Option<String>,
    /// Produce requests that carried it.
    #[diesel(sql_type = Nullable<Integer>)]
    pub attempts: Option<i32>,
    /// The id of the event it waits for.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub blocked_by: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: OffsetDateTime,
    #[diesel(sql_type = Timestamptz)]
    pub held_at: OffsetDateTime,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub discarded_at: Option<OffsetDateTime>,
}

/// Which held events; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldFilter {
    pub topic: Option<String>,
    pub key: Option<String>,
    /// `None` is all but the discarded ones.
    pub state: Option<EventState>,
}

/// A state that follows from `outbox_held.cause`.
pub(super) struct HeldState(EventState);

impl FromSql<Text, Pg> for HeldState {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let states = &EventState::ALL;
        named(value, "outbox_held.cause", states, EventState::as_str).map(Self)
    }
}

impl From<HeldState> for EventState {
    fn from(state: HeldState) -> Self {
        state.0
    }
}

macro_rules! select_from {
    ($held:literal) => {
        concat!(
            "select h.id, e.event_id, h.topic, h.key, e.event_type, \
             case when h.discarded_at is not null then 'discarded' else h.cause end as state, \
             h.error, h.attempts, h.blocked_by, e.created_at, h.held_at, h.discarded_at from ",
            $held,
            " h join outbox_event e on e.id = h.id "
        )
    };
}

/// Plan: a walk along `outbox_held_key`, in order, and one along the primary key for the first of the
/// unavailable ones, which may be many of one key.
const UNSETTLED: &str = concat!(
    "with first as (\
     (select * from outbox_held where cause <> 'unavailable' and discarded_at is null \
      and ($1 is null or topic = $1) and ($2 is null or key = $2) and ($3 is null or cause = $3) \
      order by topic, key, id limit $4) \
     union all \
     (select * from outbox_held where cause = 'unavailable' \
      and ($1 is null or topic = $1) and ($2 is null or key = $2) and ($3 is null or cause = $3) \
      order by id limit $4)) ",
    select_from!("first"),
    "order by h.topic, h.key, h.id limit $4"
);

/// Discarded ones are in no index but the primary key, and retention takes them.
const DISCARDED: &str = concat!(
    select_from!("outbox_held"),
    "where h.discarded_at is not null and ($1 is null or h.topic = $1) \
     and ($2 is null or h.key = $2) and $3 = 'discarded' order by h.topic, h.key, h.id limit $4"
);

/// Held events by topic, key and id, at most `limit`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn held(
    conn: &mut AsyncPgConnection,
    filter: &HeldFilter,
    limit: i64,
) -> Result<Vec<HeldEvent>, StorageError> {
    let statement = match filter.state {
        Some(EventState::Discarded) => DISCARDED,
        None | Some(EventState::Dead | EventState::Blocked | EventState::Unavailable) => UNSETTLED,
        Some(EventState::Pending | EventState::Published | EventState::Unqueued) => {
            return Ok(Vec::new());
        }
    };
    Ok(sql_query(statement)
        .bind::<Nullable<Text>, _>(filter.topic.as_deref())
        .bind::<Nullable<Text>, _>(filter.key.as_deref())
        .bind::<Nullable<Text>, _>(filter.state.map(EventState::as_str))
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await?)
}

/// The event of this id, if it is held or discarded. Nothing keeps a writer from using an id
/// twice: of several, the one that there is something to decide about comes first. Plan: a walk over
/// what is held, since event ids have no index.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn held_event(
    conn: &mut AsyncPgConnection,
    event: EventId,
) -> Result<Option<HeldEvent>, StorageError> {
    Ok(sql_query(concat!(
        select_from!("outbox_held"),
        "where e.event_id = $1 \
         order by h.discarded_at is not null, h.cause <> 'dead', h.id limit 1"
    ))
    .bind::<SqlUuid, _>(event.as_uuid())
    .get_result(conn)
    .await
    .optional()?)
}
