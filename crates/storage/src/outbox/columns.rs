//! Columns of `outbox_event` as values.

use std::borrow::Cow;
use std::collections::BTreeMap;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::sql_types::{
    BigInt, Bytea, Json, Jsonb, Nullable, SmallInt, Text, Timestamptz, Uuid as SqlUuid,
};
use domain::{Body, Content, OutboxEvent};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

/// The columns of `outbox_event`; all but the id are null where a left join found none.
#[derive(QueryableByName)]
pub(super) struct EventColumns {
    #[diesel(sql_type = BigInt)]
    pub(super) id: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    event_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    topic: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    key: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    event_type: Option<String>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    schema_version: Option<i16>,
    #[diesel(sql_type = Nullable<Text>)]
    source: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    content_type: Option<ContentType>,
    #[diesel(sql_type = Nullable<Json>)]
    payload: Option<JsonText>,
    #[diesel(sql_type = Nullable<Bytea>)]
    payload_bytes: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    headers: Option<TextHeaders>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    created_at: Option<OffsetDateTime>,
}

/// `None` when there is no event.
pub(super) fn event_from(row: EventColumns) -> Option<OutboxEvent> {
    Some(OutboxEvent {
        event_id: row.event_id?.into(),
        topic: row.topic?,
        key: row.key?,
        event_type: row.event_type?,
        schema_version: row.schema_version?,
        source: row.source?,
        content: content_from(row.content_type, row.payload, row.payload_bytes),
        headers: row.headers?.0,
        created_at: row.created_at?,
    })
}

/// The schema allows one payload and its content type, or none of the three.
pub(super) fn content_from(
    content_type: Option<ContentType>,
    json: Option<JsonText>,
    bytes: Option<Vec<u8>>,
) -> Option<Content> {
    let body = json
        .map(|json| Body::Json(json.0))
        .or_else(|| bytes.map(Body::Bytes))?;
    Some(Content {
        content_type: content_type?.0,
        body,
    })
}

/// A media type. The usual one takes no memory.
#[derive(Debug, FromSqlRow)]
pub(super) struct ContentType(Cow<'static, str>);

impl FromSql<Text, Pg> for ContentType {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(match str::from_utf8(value.as_bytes())? {
            Content::JSON => Cow::Borrowed(Content::JSON),
            other => Cow::Owned(other.to_owned()),
        }))
    }
}

/// A document of type `json`, byte for byte as its writer phrased it.
#[derive(Debug, FromSqlRow)]
pub(super) struct JsonText(pub(super) String);

impl FromSql<Json, Pg> for JsonText {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(str::from_utf8(value.as_bytes())?.to_owned()))
    }
}

/// An event's own headers.
#[derive(Debug, FromSqlRow)]
pub(super) struct TextHeaders(pub(super) BTreeMap<String, String>);

impl FromSql<Jsonb, Pg> for TextHeaders {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        // One byte names the version of the format, text follows (`jsonb_send`).
        match value.as_bytes() {
            [1, b'{', b'}'] => Ok(Self(BTreeMap::new())),
            [1, text @ ..] => Ok(Self(text_headers(text)?)),
            _ => Err("unknown version of jsonb".into()),
        }
    }
}

/// Foreign writers may put any JSON value behind a header's name; all but text goes out as JSON, as
/// Postgres phrases it: numbers and depths that no type of ours has room for must not keep other
/// events from being read.
fn text_headers(json: &[u8]) -> serde_json::Result<BTreeMap<String, String>> {
    let headers: BTreeMap<String, &RawValue> = serde_json::from_slice(json)?;
    headers
        .into_iter()
        .map(|(name, value)| {
            let json = value.get();
            let text = if json.starts_with('"') {
                serde_json::from_str(json)?
            } else {
                json.to_owned()
            };
            Ok((name, text))
        })
        .collect()
}
