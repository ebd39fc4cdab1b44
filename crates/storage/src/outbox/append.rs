//! Writing events. The trigger on `outbox_event` queues them.

use diesel::sql_query;
use diesel::sql_types::{Array, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::NewEvent;
use uuid::Uuid;

use crate::error::StorageError;

/// Ids are drawn in the order of the arrays, so events of one key keep the order they came in.
const APPEND: &str = "\
insert into outbox_event (event_id, topic, key, event_type, schema_version, payload, headers)
select e.event_id, e.topic, e.key, e.event_type, e.schema_version, e.payload::json, e.headers::jsonb
from unnest($1, $2, $3, $4, $5, $6, $7) with ordinality
     as e(event_id, topic, key, event_type, schema_version, payload, headers, place)
order by e.place";

/// Appends events, all or none. Call it in the transaction of what they announce.
///
/// # Errors
/// When Postgres refuses one (a payload that is no JSON, a key over 2,048 bytes) or cannot be asked.
pub async fn append(conn: &mut AsyncPgConnection, events: &[NewEvent]) -> Result<(), StorageError> {
    let column = |text: fn(&NewEvent) -> &str| events.iter().map(text).collect::<Vec<&str>>();
    let ids: Vec<Uuid> = events.iter().map(|e| e.event_id.as_uuid()).collect();
    let versions: Vec<i16> = events.iter().map(|e| e.schema_version).collect();
    let headers: Vec<String> = events
        .iter()
        .map(|e| serde_json::to_string(&e.headers).expect("text to text is always JSON"))
        .collect();
    sql_query(APPEND)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(column(|e| &e.topic))
        .bind::<Array<Text>, _>(column(|e| &e.key))
        .bind::<Array<Text>, _>(column(|e| &e.event_type))
        .bind::<Array<SmallInt>, _>(versions)
        .bind::<Array<Text>, _>(column(|e| &e.payload))
        .bind::<Array<Text>, _>(headers)
        .execute(conn)
        .await?;
    Ok(())
}
