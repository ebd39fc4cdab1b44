//! An order's journey: its events and where they are.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::{EventId, EventState, OrderId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pg::error::StorageError;

/// One event of an order and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventJourney {
    pub event_id: EventId,
    pub event_type: String,
    pub topic: String,
    pub written_at: OffsetDateTime,
    pub state: EventState,
    pub delivered: Option<Delivered>,
    /// Why it is held, when it is.
    pub held_reason: Option<String>,
    /// One entry per consumer group that met it.
    pub consumed: Vec<Consumed>,
}

/// Where Kafka has the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub at: OffsetDateTime,
    pub partition: i32,
    pub offset: i64,
}

/// What a consumer group did with the event.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Consumed {
    #[diesel(sql_type = Text)]
    pub consumer_group: String,
    #[diesel(sql_type = Timestamptz)]
    pub at: OffsetDateTime,
    /// Why it was dead-lettered, and whether it was discarded since; `None` when it was applied.
    #[diesel(sql_type = Nullable<Text>)]
    pub dead_letter_reason: Option<String>,
}

#[derive(QueryableByName)]
struct EventRow {
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = Timestamptz)]
    created_at: OffsetDateTime,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    processed_at: Option<OffsetDateTime>,
    #[diesel(sql_type = Nullable<Integer>)]
    kafka_partition: Option<i32>,
    #[diesel(sql_type = Nullable<BigInt>)]
    kafka_offset: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    held_reason: Option<String>,
}

/// An order has few events. If a key has more, only the first are read. `state` is that
/// of the view `outbox`, which would be joined as a whole where statistics are missing or old. Plan:
/// look-ups in the primary keys, for each event of one walk along `outbox_event_key`.
const EVENTS: &str = "\
select e.event_id, e.event_type, e.topic, e.created_at,
       case when p.id is not null then 'published'
            when h.discarded_at is not null then 'discarded'
            when h.id is not null then h.cause
            when q.id is not null then 'pending'
            else 'unqueued' end as state,
       p.processed_at, p.kafka_partition, p.kafka_offset,
       coalesce(h.error, case when h.blocked_by is not null then 'blocked by event ' || h.blocked_by end)
       as held_reason
from (select * from outbox_event where key = $1 order by id limit 100) e
left join lateral (select * from outbox_published where id = e.id limit 1) p on true
left join lateral (select * from outbox_held where id = e.id limit 1) h on true
left join lateral (
    select id from outbox_pending
    where slot = (hashtextextended(e.key, 0) & 31)::smallint and id = e.id limit 1) q on true
order by e.id";

/// Plan: look-ups in the primary keys, for each group, of which there are few.
const CONSUMED: &str = "\
with groups as materialized (select distinct consumer_group from inbox_offset)
select g.consumer_group, i.processed_at as at,
       (select 'discarded: ' || d.reason from inbox_dead_letter d
        where d.consumer_group = g.consumer_group and d.topic = $2 and d.partition = $3
          and d.\"offset\" = $4 and d.settled_as = 'discarded') as dead_letter_reason
from groups g
cross join lateral (
    select processed_at from inbox
    where consumer_group = g.consumer_group and event_id = $1 limit 1) i
union all
select g.consumer_group, d.held_at, d.reason
from groups g
cross join lateral (
    select held_at, reason from inbox_dead_letter
    where consumer_group = g.consumer_group and topic = $2 and partition = $3 and \"offset\" = $4
      and settled_at is null limit 1) d
order by at";

/// The events of an order, in order, and what became of each.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn of_order(
    conn: &mut AsyncPgConnection,
    order: OrderId,
) -> Result<Vec<EventJourney>, StorageError> {
    let rows: Vec<EventRow> = sql_query(EVENTS)
        .bind::<Text, _>(order.to_string())
        .load(conn)
        .await?;
    let mut journeys = Vec::with_capacity(rows.len());
    for row in rows {
        let delivered = match (row.processed_at, row.kafka_partition, row.kafka_offset) {
            (Some(at), Some(partition), Some(offset)) => Some(Delivered {
                at,
                partition,
                offset,
            }),
            _ => None,
        };
        let consumed = sql_query(CONSUMED)
            .bind::<SqlUuid, _>(row.event_id)
            .bind::<Text, _>(&row.topic)
            .bind::<Nullable<Integer>, _>(row.kafka_partition)
            .bind::<Nullable<BigInt>, _>(row.kafka_offset)
            .load::<Consumed>(conn)
            .await?;
        journeys.push(EventJourney {
            event_id: row.event_id.into(),
            event_type: row.event_type,
            topic: row.topic,
            written_at: row.created_at,
            state: row
                .state
                .parse()
                .map_err(
                    |e: domain::outbox::UnknownEventState| StorageError::Unreadable {
                        column: "outbox.state",
                        reason: e.to_string(),
                    },
                )?,
            delivered,
            held_reason: row.held_reason,
            consumed,
        });
    }
    Ok(journeys)
}
