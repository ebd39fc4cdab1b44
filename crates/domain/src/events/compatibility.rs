//! Keeps every version of an event type readable: by this code, whatever was ever written, and by
//! readers of today, whatever this code writes.
//!
//! Beside an event type, `v1.golden.json` and its like hold payloads as they were written; they never
//! change. `v1.schema.json` and its like hold the JSON Schema of each version, generated from the
//! types. After a change that breaks nobody, `UPDATE_SCHEMAS=1 cargo test -p domain` writes them again;
//! a change that breaks somebody is refused, and needs a new version.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::datetime;

use super::order_created::OrderCreated;
use super::{EncodedEvent, EventType};
use crate::order::{OrderId, ProductId, Quantity};

/// When the events of [`encoded`] were created.
pub(crate) const EVENT_TIME: OffsetDateTime = datetime!(2026-05-06 07:08:09 UTC);

/// One version of an event type.
pub(crate) struct Version<E> {
    pub(crate) schema: Value,
    /// What its golden sample means today.
    pub(crate) sample: E,
}

/// A JSON event, or a tombstone.
pub(crate) fn encoded(schema_version: i32, payload: Option<&[u8]>) -> EncodedEvent<'_> {
    EncodedEvent {
        schema_version,
        content_type: payload.map(|_| "application/json"),
        payload,
        time: EVENT_TIME,
    }
}

impl JsonSchema for OrderId {
    fn schema_name() -> Cow<'static, str> {
        "OrderId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uuid" })
    }

    fn inline_schema() -> bool {
        true
    }
}

impl JsonSchema for ProductId {
    fn schema_name() -> Cow<'static, str> {
        "ProductId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = format!("^[A-Za-z0-9._-]{{1,{}}}$", ProductId::MAX_LENGTH);
        json_schema!({ "type": "string", "pattern": pattern })
    }

    fn inline_schema() -> bool {
        true
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": Quantity::MAX })
    }

    fn inline_schema() -> bool {
        true
    }
}

pub(crate) fn schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}

fn names(schema: &Value, list: &str) -> BTreeSet<String> {
    match &schema[list] {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect(),
        Value::Object(items) => items.keys().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

/// How `new` would break readers that know `old`, or no longer read what was written under it.
fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut breaks = Vec::new();
    if old.is_null() {
        return breaks; // a new version
    }
    for field in names(old, "properties") {
        if old["properties"][&field] != new["properties"][&field] {
            breaks.push(format!("{field} is not what it was"));
        }
    }
    for field in names(old, "required").difference(&names(new, "required")) {
        breaks.push(format!("{field} is no longer always there"));
    }
    for field in names(new, "required").difference(&names(old, "required")) {
        breaks.push(format!("{field} is required, and older events lack it"));
    }
    breaks
}

/// Checks all versions of `E`, from 1 on, against the files in its `folder`.
pub(crate) fn check<E>(folder: &str, versions: Vec<Version<E>>)
where
    E: EventType + Serialize + PartialEq + Debug,
{
    assert_eq!(versions.len(), usize::try_from(E::VERSION).unwrap());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/events")
        .join(folder);
    for (version, Version { schema, sample }) in (1_i16..).zip(versions) {
        let golden = std::fs::read_to_string(folder.join(format!("v{version}.golden.json")));
        let golden = golden.unwrap();
        let read = E::decode(&encoded(version.into(), Some(golden.as_bytes()))).unwrap();
        assert_eq!(read, sample, "version {version}");
        if version == E::VERSION {
            let written = serde_json::to_string(&sample).unwrap();
            assert_eq!(written, golden.trim_end(), "what is written");
        }
        check_schema(&folder.join(format!("v{version}.schema.json")), &schema);
    }
}

/// A version that was written once does not change.
fn check_schema(file: &Path, generated: &Value) {
    let committed: Value = match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => Value::Null,
    };
    let breaks = breaks(&committed, generated);
    assert_eq!(breaks, [""; 0], "{file:?}: make a new version instead");
    if committed != *generated && std::env::var_os("UPDATE_SCHEMAS").is_some() {
        let text = serde_json::to_string_pretty(generated).unwrap();
        std::fs::write(file, text + "\n").unwrap();
    } else {
        assert_eq!(
            committed, *generated,
            "{file:?} is not of the type: UPDATE_SCHEMAS=1 writes it again"
        );
    }
}

#[test]
fn every_change_that_breaks_somebody_is_found() {
    let old = schema::<OrderCreated>();
    let changed = |change: fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        breaks(&old, &new)
    };
    assert_eq!(changed(|_| {}), [""; 0]);
    assert_eq!(
        changed(|new| new["properties"]["note"] = "string".into()),
        [""; 0],
        "a field that may be missing breaks nobody"
    );
    let breaking: [fn(&mut Value); 4] = [
        |new| new["properties"]["quantity"]["maximum"] = 20_000.into(),
        |new| new["properties"]["productId"]["type"] = "integer".into(),
        |new| {
            let properties = new["properties"].as_object_mut().unwrap();
            properties.remove("createdAt");
        },
        |new| new["required"].as_array_mut().unwrap().push("note".into()),
    ];
    for change in breaking {
        assert_eq!(changed(change).len(), 1);
    }
    let optional = changed(|new| new["required"] = Value::Array(Vec::new()));
    assert_eq!(optional.len(), 4);
}
