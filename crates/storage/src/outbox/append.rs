//! Writing events. The trigger on `outbox_event` queues them.

use std::borrow::Borrow;

use diesel::sql_types::{Array, Bytea, Nullable, SmallInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::{Body, Content, NewEvent};
use uuid::Uuid;

use crate::pg::cached::cached;
use crate::pg::error::StorageError;

/// Ids are drawn in the order of the arrays, so events of one key keep the order they came in.
const APPEND: &str = "\
insert into outbox_event (event_id, topic, key, event_type, schema_version, source, content_type,
                          payload, payload_bytes, headers)
select e.event_id, e.topic, e.key, e.event_type, e.schema_version, e.source, e.content_type,
       e.payload::json, e.payload_bytes, e.headers::jsonb
from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) with ordinality
     as e(event_id, topic, key, event_type, schema_version, source, content_type, payload,
          payload_bytes, headers, position)
order by e.position";

/// Appends events, all or none. Call it in the transaction of what they announce.
///
/// # Errors
/// When Postgres refuses one (a payload that is no JSON, a key over 2,048 bytes) or cannot be asked.
pub async fn append(conn: &mut AsyncPgConnection, events: &[NewEvent]) -> Result<(), StorageError> {
    send(conn, events).await
}

/// Through a shared connection, so that it can follow another statement without waiting for its
/// answer.
pub(crate) async fn send(
    mut conn: &AsyncPgConnection,
    events: &[impl Borrow<NewEvent>],
) -> Result<(), StorageError> {
    let events = || events.iter().map(Borrow::borrow);
    let column = |text: fn(&NewEvent) -> &str| events().map(text).collect::<Vec<&str>>();
    let optional =
        |text: fn(&NewEvent) -> Option<&str>| events().map(text).collect::<Vec<Option<&str>>>();
    let bytes: Vec<Option<&[u8]>> = events().map(|e| bytes(e.content.as_ref()?)).collect();
    let ids: Vec<Uuid> = events().map(|e: &NewEvent| e.event_id.as_uuid()).collect();
    let versions: Vec<i16> = events().map(|e| e.schema_version).collect();
    let headers: Vec<String> = events()
        .map(|e| serde_json::to_string(&e.headers).expect("text to text is always JSON"))
        .collect();
    cached(APPEND)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(column(|e| &e.topic))
        .bind::<Array<Text>, _>(column(|e| &e.key))
        .bind::<Array<Text>, _>(column(|e| &e.event_type))
        .bind::<Array<SmallInt>, _>(versions)
        .bind::<Array<Nullable<Text>>, _>(optional(|e| e.source.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(optional(|e| Some(&*e.content.as_ref()?.content_type)))
        .bind::<Array<Nullable<Text>>, _>(optional(|e| json(e.content.as_ref()?)))
        .bind::<Array<Nullable<Bytea>>, _>(bytes)
        .bind::<Array<Text>, _>(headers)
        .execute(&mut conn)
        .await?;
    Ok(())
}

fn json(content: &Content) -> Option<&str> {
    match &content.body {
        Body::Json(text) => Some(text),
        Body::Bytes(_) => None,
    }
}

fn bytes(content: &Content) -> Option<&[u8]> {
    match &content.body {
        Body::Json(_) => None,
        Body::Bytes(bytes) => Some(bytes),
    }
}
