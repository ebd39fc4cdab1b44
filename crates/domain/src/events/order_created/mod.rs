//! `OrderCreated`: an order was accepted.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::{DecodeError, EncodedEvent, EventType};
use crate::order::{Order, OrderId, ProductId, Quantity};
use crate::outbox::NewEvent;

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

impl EventType for OrderCreated {
    const TYPE: &'static str = "OrderCreated";
    const TOPIC: &'static str = "order.created";
    const VERSION: i16 = 2;

    fn decode(event: &EncodedEvent<'_>) -> Result<Self, DecodeError> {
        match event.schema_version {
            1 => {
                let OrderCreatedV1 {
                    order_id,
                    product_id,
                } = event.json::<Self, _>()?;
                Ok(Self {
                    order_id,
                    product_id,
                    quantity: Quantity::ONE,
                    created_at: event.time,
                })
            }
            2 => event.json::<Self, _>(),
            _ => Err(event.unknown_version::<Self>()),
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
        let event = OrderCreated::from(self);
        NewEvent::of(&event, self.id.to_string(), Self::EVENT_SOURCE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::events::compatibility::{self, EVENT_TIME, Version, schema};

    const ORDER: &str = "0190a5d0-0000-7000-8000-000000000001";

    fn decode(version: i32, payload: &[u8]) -> Result<OrderCreated, DecodeError> {
        OrderCreated::decode(&compatibility::encoded(version, Some(payload)))
    }

    #[test]
    fn every_version_is_read_for_ever() {
        let order_id = ORDER.parse().unwrap();
        let product_id: ProductId = "P-001".parse().unwrap();
        compatibility::check(
            "order_created",
            vec![
                Version {
                    schema: schema::<OrderCreatedV1>(),
                    sample: OrderCreated {
                        order_id,
                        product_id: product_id.clone(),
                        quantity: Quantity::ONE,
                        created_at: EVENT_TIME,
                    },
                },
                Version {
                    schema: schema::<OrderCreated>(),
                    sample: OrderCreated {
                        order_id,
                        product_id,
                        quantity: 3.try_into().unwrap(),
                        created_at: datetime!(2026-01-02 03:04:05.678_901 UTC),
                    },
                },
            ],
        );
    }

    #[test]
    fn version_1_is_lifted_to_one_unit_at_the_events_time() {
        let payload = format!(r#"{{"orderId":"{ORDER}","productId":"P-001","extra":true}}"#);
        let event = decode(1, payload.as_bytes()).unwrap();
        assert_eq!(event.order_id.to_string(), ORDER);
        assert_eq!(event.product_id.as_str(), "P-001");
        assert_eq!(event.quantity, Quantity::ONE);
        assert_eq!(event.created_at, EVENT_TIME);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |version, payload: &str| {
            let decoded = decode(version, payload.as_bytes());
            decoded.unwrap_err().to_string()
        };
        assert!(error(3, "{}").contains("no schema version 3; the newest is 2"));
        assert!(error(2, "{").contains("version 2"));
        assert!(error(2, "{}").contains("orderId"));
        let zero = format!(
            r#"{{"orderId":"{ORDER}","productId":"P","quantity":0,"createdAt":"2026-01-02T03:04:05Z"}}"#
        );
        assert!(error(2, &zero).contains("from 1 to 10000"));
        let tombstone = OrderCreated::decode(&compatibility::encoded(2, None));
        assert!(tombstone.unwrap_err().to_string().contains("tombstone: "));
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
        assert_eq!(event.source.as_deref(), Some("/order-api"));
        let content = event.content.unwrap();
        let read = decode(event.schema_version.into(), content.as_bytes()).unwrap();
        assert_eq!(read, OrderCreated::from(&order));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(
            version in 0..4,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = decode(version, &payload);
        }
    }
}
