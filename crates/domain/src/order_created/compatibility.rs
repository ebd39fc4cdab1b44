//! Keeps every version of `OrderCreated` readable: by this code, whatever was ever written, and by
//! readers of today, whatever this code writes.
//!
//! `golden/` holds payloads as they were written; they are never changed. `schemas/` holds the JSON
//! Schema of each version, generated from the types. After a change that breaks nobody,
//! `UPDATE_SCHEMAS=1 cargo test -p domain` writes them anew; a change that breaks somebody is
//! refused, and needs a new version.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::datetime;

use super::{OrderCreated, OrderCreatedV1};
use crate::order::{OrderId, ProductId, Quantity};

const EVENT_TIME: OffsetDateTime = datetime!(2026-05-06 07:08:09 UTC);

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

fn schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}

/// Of every version, in order.
fn schemas() -> Vec<Value> {
    vec![schema::<OrderCreatedV1>(), schema::<OrderCreated>()]
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
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

#[test]
fn what_was_written_is_read_for_ever() {
    let read = |version: i32| {
        let payload = std::fs::read(file(&format!("golden/order_created/v{version}.json")));
        OrderCreated::decode(version, &payload.unwrap(), EVENT_TIME).unwrap()
    };
    let order_id = "0190a5d0-0000-7000-8000-000000000001".parse().unwrap();
    assert_eq!(
        read(1),
        OrderCreated {
            order_id,
            product_id: "P-001".parse().unwrap(),
            quantity: Quantity::ONE,
            created_at: EVENT_TIME,
        }
    );
    assert_eq!(
        read(2),
        OrderCreated {
            order_id,
            product_id: "P-001".parse().unwrap(),
            quantity: 3.try_into().unwrap(),
            created_at: datetime!(2026-01-02 03:04:05.678_901 UTC),
        }
    );
}

#[test]
fn what_is_written_is_what_was_written() {
    let golden = format!("golden/order_created/v{}.json", OrderCreated::VERSION);
    let golden = std::fs::read_to_string(file(&golden)).unwrap();
    let event: OrderCreated = serde_json::from_str(&golden).unwrap();
    assert_eq!(serde_json::to_string(&event).unwrap(), golden.trim_end());
}

#[test]
fn a_version_once_written_does_not_change() {
    let schemas = schemas();
    assert_eq!(
        schemas.len(),
        usize::try_from(OrderCreated::VERSION).unwrap()
    );
    for (version, generated) in (1..).zip(schemas) {
        let path = file(&format!("schemas/order_created.v{version}.json"));
        let committed: Value = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => Value::Null,
        };
        assert_eq!(
            breaks(&committed, &generated),
            [""; 0],
            "version {version}: make a new version instead"
        );
        if committed != generated && std::env::var_os("UPDATE_SCHEMAS").is_some() {
            let text = serde_json::to_string_pretty(&generated).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
        } else {
            assert_eq!(
                committed, generated,
                "{path:?} is not of the type: UPDATE_SCHEMAS=1 writes it anew"
            );
        }
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
