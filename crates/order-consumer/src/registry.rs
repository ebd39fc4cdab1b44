//! The event types that are consumed, with the decoder and the handlers of each.
//!
//! [`crate::handlers::registry`] fills it, one line per event type. Everything else follows from
//! it, such as the topics to consume.

use std::sync::Arc;

use domain::{EncodedEvent, EventType};

use crate::handlers::{ApplyAll, Event, Handler, Value};

/// The registered event types. Clones share them.
#[derive(Clone, Default)]
pub struct Registry(Arc<Vec<Registered>>);

#[derive(Clone)]
struct Registered {
    topic: String,
    event_type: &'static str,
    decode: fn(&EncodedEvent<'_>) -> Result<Value, String>,
    handlers: Arc<dyn ApplyAll>,
}

impl Registry {
    /// Registers event type `E` on its own topic. `handlers` apply its events, in this order.
    ///
    /// # Panics
    /// If the topic already has an event type of this name.
    #[must_use]
    pub fn register<E: EventType>(self, handlers: Vec<Box<dyn Handler<E>>>) -> Self {
        self.register_on(E::TOPIC, handlers)
    }

    /// Like [`Self::register`], on a topic of another name.
    ///
    /// # Panics
    /// If the topic already has an event type of this name.
    #[must_use]
    pub fn register_on<E: EventType>(
        mut self,
        topic: &str,
        handlers: Vec<Box<dyn Handler<E>>>,
    ) -> Self {
        assert!(
            self.find(topic, E::TYPE).is_none(),
            "{} is already registered for {topic}",
            E::TYPE,
        );
        Arc::make_mut(&mut self.0).push(Registered {
            topic: topic.to_owned(),
            event_type: E::TYPE,
            decode: decode::<E>,
            handlers: Arc::new(handlers),
        });
        self
    }

    /// The topics of the registered types, each once, in the order of registration.
    pub fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = Vec::new();
        for registered in self.0.iter() {
            if !topics.contains(&registered.topic) {
                topics.push(registered.topic.clone());
            }
        }
        topics
    }

    /// Reads an event of `topic`.
    ///
    /// # Errors
    /// The reason why it can never be applied: its type is not registered, or its decoder refuses
    /// it.
    pub fn decode(
        &self,
        topic: &str,
        event_type: &str,
        event: &EncodedEvent<'_>,
    ) -> Result<Event, String> {
        let registered = self
            .find(topic, event_type)
            .ok_or_else(|| format!("unknown event type {event_type:?}"))?;
        Ok(Event::new(
            registered.event_type,
            (registered.decode)(event)?,
            Arc::clone(&registered.handlers),
        ))
    }

    fn find(&self, topic: &str, event_type: &str) -> Option<&Registered> {
        let mut all = self.0.iter();
        all.find(|registered| registered.topic == topic && registered.event_type == event_type)
    }
}

fn decode<E: EventType>(event: &EncodedEvent<'_>) -> Result<Value, String> {
    let value = E::decode(event).map_err(|error| error.to_string())?;
    Ok(Arc::new(value))
}

#[cfg(test)]
mod tests {
    use domain::OrderCreated;
    use domain::events::DecodeError;
    use time::OffsetDateTime;

    use super::*;

    /// Bytes as they are, or none.
    #[derive(Debug, PartialEq, Eq)]
    struct Raw(Option<Vec<u8>>);

    impl EventType for Raw {
        const TYPE: &'static str = "Raw";
        const TOPIC: &'static str = "raw";
        const VERSION: i16 = 1;

        fn decode(event: &EncodedEvent<'_>) -> Result<Self, DecodeError> {
            Ok(Self(event.payload.map(<[u8]>::to_vec)))
        }
    }

    fn encoded(payload: Option<&[u8]>) -> EncodedEvent<'_> {
        EncodedEvent {
            schema_version: 1,
            content_type: Some("avro/binary"),
            payload,
            time: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_event_is_read_by_its_topic_and_type() {
        let registry = Registry::default()
            .register::<OrderCreated>(Vec::new())
            .register::<Raw>(Vec::new());
        assert_eq!(registry.topics(), ["order.created", "raw"]);
        let read = |topic, event_type| registry.decode(topic, event_type, &encoded(Some(b"\xff")));
        let event = read("raw", "Raw").unwrap();
        assert_eq!(event.get::<Raw>(), Some(&Raw(Some(vec![0xff]))));
        assert_eq!(event.get::<OrderCreated>(), None);
        for (topic, event_type) in [
            ("raw", "OrderCreated"),
            ("order.created", "Raw"),
            ("x", "Raw"),
        ] {
            let unknown = read(topic, event_type).unwrap_err();
            assert_eq!(unknown, format!("unknown event type {event_type:?}"));
        }
        let tombstone = registry.decode("raw", "Raw", &encoded(None)).unwrap();
        assert_eq!(
            tombstone.get::<Raw>(),
            Some(&Raw(None)),
            "an event of this type"
        );
    }

    #[test]
    #[should_panic(expected = "OrderCreated is already registered for order.created")]
    fn a_type_is_registered_once() {
        let _ = Registry::default()
            .register::<OrderCreated>(Vec::new())
            .register::<OrderCreated>(Vec::new());
    }
}
