//! The event type that everything here is about: a tick of a key.

use domain::events::DecodeError;
use domain::{Content, EncodedEvent, EventId, EventType, NewEvent};
use serde::Deserialize;
use uuid::Uuid;

/// The topics that ticks go to.
pub const TOPICS: [&str; 2] = ["a", "b"];

/// A tick, as a consumer reads it.
#[derive(Debug, Deserialize)]
pub struct Ticked {
    /// Topic and key.
    pub target: String,
}

impl EventType for Ticked {
    const TYPE: &'static str = "Ticked";
    const TOPIC: &'static str = TOPICS[0];
    const VERSION: i16 = 1;

    fn decode(event: &EncodedEvent<'_>) -> Result<Self, DecodeError> {
        event.json::<Self, _>()
    }
}

/// The `number`th event of this world.
pub fn ticked(number: u128, topic: &str, key: &str, readable: bool) -> NewEvent {
    let json = if readable {
        serde_json::json!({ "target": format!("{topic}/{key}") })
    } else {
        serde_json::json!({})
    };
    NewEvent {
        event_id: EventId::from(Uuid::from_u128(number)),
        topic: topic.to_owned(),
        key: key.to_owned(),
        event_type: Ticked::TYPE.to_owned(),
        schema_version: Ticked::VERSION,
        source: None,
        content: Some(Content::json(json.to_string())),
        headers: std::collections::BTreeMap::new(),
    }
}
