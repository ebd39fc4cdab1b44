//! `OrderCreated`: the event an order announces itself with, in every version ever written.
//!
//! Writers write the newest version only; readers read all of them for ever. Older versions are
//! lifted into today's type while decoding, so that nothing after this module knows of versions.

#[cfg(test)]
mod compatibility;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use crate::order::{Order, OrderId, ProductId, Quantity};
use crate::outbox::{EventId, NewEvent};

/// An order was accepted. The wire form of its newest version, field names in camelCase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OrderCreated {
    pub order_id: OrderId,
    pub product_id: ProductId,
    pub quantity: Quantity,
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub created_at: OffsetDateTime,
}

/// Version 1: no quantity (it meant one unit) and no time (that of the event stands in).
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
struct OrderCreatedV1 {
    order_id: OrderId,
    product_id: ProductId,
}

/// Bytes that are no `OrderCreated`. Permanent: the same bytes never decode later.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("OrderCreated has no schema version {0}; known are 1 and 2")]
    UnknownVersion(i32),
    #[error("not an OrderCreated of version {version}: {source}")]
    Payload {
        version: i32,
        source: serde_json::Error,
    },
}

impl OrderCreated {
    /// The event's type name, as in the header `ce_type`.
    pub const TYPE: &'static str = "OrderCreated";
    /// The version writers write.
    pub const VERSION: i16 = 2;
    /// The Kafka topic of these events.
    pub const TOPIC: &'static str = "order.created";

    /// Reads a payload of the given schema version. `event_time` is when the event was created,
    /// for versions whose payload does not say. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`DecodeError`] when the version is unknown or the payload is not of it.
    pub fn decode(
        version: i32,
        payload: &[u8],
        event_time: OffsetDateTime,
    ) -> Result<Self, DecodeError> {
        let wrong = |source| DecodeError::Payload { version, source };
        match version {
            1 => {
                let OrderCreatedV1 {
                    order_id,
                    product_id,
                } = serde_json::from_slice(payload).map_err(wrong)?;
                Ok(Self {
                    order_id,
                    product_id,
                    quantity: Quantity::ONE,
                    created_at: event_time,
                })
            }
            2 => serde_json::from_slice(payload).map_err(wrong),
            unknown => Err(DecodeError::UnknownVersion(unknown)),
        }
    }
}

impl From<&Order> for OrderCreated {
    fn from(order: &Order) -> Self {
        Self {
            order_id: order.id,
            product_id: order.product_id.clone(),
            quantity: order.quantity,
            created_at: order.created_at,
        }
    }
}

impl Order {
    /// The event that announces this order, keyed by the order's id. Each call makes a new event id.
    pub fn created_event(&self) -> NewEvent {
        NewEvent {
            event_id: EventId::generate(),
            topic: OrderCreated::TOPIC.to_owned(),
            key: self.id.to_string(),
            event_type: OrderCreated::TYPE.to_owned(),
            schema_version: OrderCreated::VERSION,
            payload: serde_json::to_string(&OrderCreated::from(self))
                .expect("an OrderCreated has string keys and finite numbers only"),
            headers: std::collections::BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const EVENT_TIME: OffsetDateTime = datetime!(2026-01-02 03:04:05 UTC);
    const ORDER: &str = "0190a5d0-0000-7000-8000-000000000001";

    #[test]
    fn version_1_is_lifted_to_one_unit_at_the_events_time() {
        let payload = format!(r#"{{"orderId":"{ORDER}","productId":"P-001","extra":true}}"#);
        let event = OrderCreated::decode(1, payload.as_bytes(), EVENT_TIME).unwrap();
        assert_eq!(event.order_id.to_string(), ORDER);
        assert_eq!(event.product_id.as_str(), "P-001");
        assert_eq!(event.quantity, Quantity::ONE);
        assert_eq!(event.created_at, EVENT_TIME);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let decode = |version, payload: &str| {
            OrderCreated::decode(version, payload.as_bytes(), EVENT_TIME)
                .unwrap_err()
                .to_string()
        };
        assert!(decode(3, "{}").contains("no schema version 3"));
        assert!(decode(2, "{").contains("version 2"));
        assert!(decode(2, "{}").contains("orderId"));
        let zero = format!(
            r#"{{"orderId":"{ORDER}","productId":"P","quantity":0,"createdAt":"2026-01-02T03:04:05Z"}}"#
        );
        assert!(decode(2, &zero).contains("from 1 to 10000"));
    }

    #[test]
    fn the_event_of_an_order_says_what_the_order_says() {
        let order = Order::place(
            "P-1".parse().unwrap(),
            7.try_into().unwrap(),
            OffsetDateTime::now_utc(),
        );
        let event = order.created_event();
        assert_eq!(event.key, order.id.to_string());
        let read = OrderCreated::decode(
            event.schema_version.into(),
            event.payload.as_bytes(),
            EVENT_TIME,
        )
        .unwrap();
        assert_eq!(read, OrderCreated::from(&order));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(version in 0..4, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = OrderCreated::decode(version, &payload, EVENT_TIME);
        }
    }
}
