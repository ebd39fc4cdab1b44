//! What answers look like in JSON. Field names are camelCase, times RFC 3339 in UTC.

use domain::{EventId, EventState, Order, OrderId, ProductId, Quantity};
use serde::Serialize;
use storage::journey::{Consumed, Delivered, EventJourney};
use time::OffsetDateTime;
use time::serde::rfc3339;

/// An order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OrderView {
    id: OrderId,
    product_id: ProductId,
    quantity: Quantity,
    #[serde(with = "rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Order> for OrderView {
    fn from(order: &Order) -> Self {
        Self {
            id: order.id,
            product_id: order.product_id.clone(),
            quantity: order.quantity,
            created_at: order.created_at,
        }
    }
}

/// Orders, newest first.
#[derive(Debug, Serialize)]
pub(super) struct OrderPage {
    items: Vec<OrderView>,
    /// Give it as `after` for the next page; `null` on the last one.
    next: Option<OrderId>,
}

impl OrderPage {
    /// A page of up to `limit` of these orders; that there are more means that there is a next page.
    pub(super) fn new(orders: &[Order], limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (items, more) = orders.split_at(limit.min(orders.len()));
        Self {
            items: items.iter().map(OrderView::from).collect(),
            next: items
                .last()
                .filter(|_| !more.is_empty())
                .map(|last| last.id),
        }
    }
}

/// An order's way through the system.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JourneyView {
    order_id: OrderId,
    #[serde(with = "rfc3339")]
    created_at: OffsetDateTime,
    events: Vec<EventView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView {
    event_id: EventId,
    #[serde(rename = "type")]
    event_type: String,
    topic: String,
    #[serde(with = "rfc3339")]
    written_at: OffsetDateTime,
    state: EventState,
    /// `null` until Kafka has it.
    delivered: Option<DeliveredView>,
    /// `null` unless it is held.
    held_reason: Option<String>,
    consumed: Vec<ConsumedView>,
}

#[derive(Debug, Serialize)]
struct DeliveredView {
    #[serde(with = "rfc3339")]
    at: OffsetDateTime,
    partition: i32,
    offset: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConsumedView {
    consumer_group: String,
    #[serde(with = "rfc3339")]
    at: OffsetDateTime,
    /// `null` when it was applied.
    dead_letter_reason: Option<String>,
}

impl JourneyView {
    pub(super) fn new(order: &Order, events: Vec<EventJourney>) -> Self {
        Self {
            order_id: order.id,
            created_at: order.created_at,
            events: events.into_iter().map(EventView::from).collect(),
        }
    }
}

impl From<EventJourney> for EventView {
    fn from(event: EventJourney) -> Self {
        Self {
            event_id: event.event_id,
            event_type: event.event_type,
            topic: event.topic,
            written_at: event.written_at,
            state: event.state,
            delivered: event.delivered.map(DeliveredView::from),
            held_reason: event.held_reason,
            consumed: event.consumed.into_iter().map(ConsumedView::from).collect(),
        }
    }
}

impl From<Delivered> for DeliveredView {
    fn from(delivered: Delivered) -> Self {
        Self {
            at: delivered.at,
            partition: delivered.partition,
            offset: delivered.offset,
        }
    }
}

impl From<Consumed> for ConsumedView {
    fn from(consumed: Consumed) -> Self {
        Self {
            consumer_group: consumed.consumer_group,
            at: consumed.at,
            dead_letter_reason: consumed.dead_letter_reason,
        }
    }
}
