//! `OrderCancelled`: an order that was accepted is called off.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::serde::rfc3339;

use super::{DecodeError, EncodedEvent, EventType};
use crate::order::{Order, OrderId, ProductId, Quantity};
use crate::outbox::NewEvent;

/// An order was cancelled. It says what was ordered, so that nobody needs to have seen the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OrderCancelled {
    pub order_id: OrderId,
    pub product_id: ProductId,
    pub quantity: Quantity,
    #[serde(with = "rfc3339")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub cancelled_at: OffsetDateTime,
}

impl EventType for OrderCancelled {
    const TYPE: &'static str = "OrderCancelled";
    const TOPIC: &'static str = "order.cancelled";
    const VERSION: i16 = 1;

    fn decode(event: &EncodedEvent<'_>) -> Result<Self, DecodeError> {
        match event.schema_version {
            1 => event.json::<Self, _>(),
            _ => Err(event.unknown_version::<Self>()),
        }
    }
}

impl Order {
    /// The event that announces that this order was cancelled, keyed by the order's id; `None` unless
    /// it was. Each call makes a new event id.
    pub fn cancelled_event(&self) -> Option<NewEvent> {
        let event = OrderCancelled {
            order_id: self.id,
            product_id: self.product_id.clone(),
            quantity: self.quantity,
            cancelled_at: self.cancelled_at?,
        };
        Some(NewEvent::of(
            &event,
            self.id.to_string(),
            Self::EVENT_SOURCE,
        ))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::events::compatibility::{self, Version, schema};

    #[test]
    fn every_version_is_read_for_ever() {
        compatibility::check(
            "order_cancelled",
            vec![Version {
                schema: schema::<OrderCancelled>(),
                sample: OrderCancelled {
                    order_id: "0190a5d0-0000-7000-8000-000000000001".parse().unwrap(),
                    product_id: "P-001".parse().unwrap(),
                    quantity: 3.try_into().unwrap(),
                    cancelled_at: datetime!(2026-01-03 04:05:06.789_012 UTC),
                },
            }],
        );
    }

    #[test]
    fn only_a_cancelled_order_has_the_event_and_it_says_what_was_ordered() {
        let now = datetime!(2026-01-03 04:05:06 UTC);
        let mut order = Order::place("P-1".parse().unwrap(), 7.try_into().unwrap(), now);
        assert_eq!(order.cancelled_event(), None);
        order.cancelled_at = Some(now);
        let event = order.cancelled_event().unwrap();
        assert_eq!(event.key, order.id.to_string());
        let content = event.content.unwrap();
        let encoded = compatibility::encoded(1, Some(content.as_bytes()));
        let read = OrderCancelled::decode(&encoded).unwrap();
        assert_eq!((read.order_id, read.cancelled_at), (order.id, now));
        assert_eq!(
            (&read.product_id, read.quantity),
            (&order.product_id, order.quantity)
        );
        let error = OrderCancelled::decode(&compatibility::encoded(2, Some(b"{}")));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("no schema version 2")
        );
    }
}
