//! What answers look like in JSON. Field names are camelCase, times RFC 3339 in UTC.

use domain::{EventId, EventState, Order, OrderId, OrderState, ProductId, Quantity};
use serde::Serialize;
use storage::journey::{Consumed, Delivered, EventJourney};
use time::OffsetDateTime;
use time::serde::rfc3339;
use utoipa::ToSchema;

/// An order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Order)]
pub(super) struct OrderView {
    #[schema(value_type = String, format = "uuid")]
    id: OrderId,
    #[schema(value_type = String)]
    product_id: ProductId,
    #[schema(value_type = i32)]
    quantity: Quantity,
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    created_at: OffsetDateTime,
    /// `placed` or `cancelled`.
    #[schema(value_type = String)]
    state: OrderState,
    /// `null` while the order is placed.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = "date-time", required = true)]
    cancelled_at: Option<OffsetDateTime>,
}

impl From<&Order> for OrderView {
    fn from(order: &Order) -> Self {
        Self {
            id: order.id,
            product_id: order.product_id.clone(),
            quantity: order.quantity,
            created_at: order.created_at,
            state: order.state(),
            cancelled_at: order.cancelled_at,
        }
    }
}

/// Orders, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrderPage)]
pub(super) struct OrderPage {
    items: Vec<OrderView>,
    /// Pass it as `after` to get the next page; `null` on the last page.
    #[schema(value_type = Option<String>, format = "uuid", required = true)]
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

/// An order's events and where they are.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Journey)]
pub(super) struct JourneyView {
    #[schema(value_type = String, format = "uuid")]
    order_id: OrderId,
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    created_at: OffsetDateTime,
    /// `placed` or `cancelled`.
    #[schema(value_type = String)]
    state: OrderState,
    events: Vec<EventView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
struct EventView {
    #[schema(value_type = String, format = "uuid")]
    event_id: EventId,
    #[serde(rename = "type")]
    event_type: String,
    topic: String,
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    written_at: OffsetDateTime,
    /// `pending`, `published`, `dead`, `blocked`, `unavailable`, `discarded` or `unqueued`.
    #[schema(value_type = String)]
    state: EventState,
    /// `null` until Kafka has it.
    #[schema(required = true)]
    delivered: Option<DeliveredView>,
    /// Why the event is held; `null` if it is not.
    #[schema(required = true)]
    held_reason: Option<String>,
    consumed: Vec<ConsumedView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivered)]
struct DeliveredView {
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    at: OffsetDateTime,
    partition: i32,
    offset: i64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Consumed)]
struct ConsumedView {
    consumer_group: String,
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    at: OffsetDateTime,
    /// Why the record is a dead letter; `null` if it was applied.
    #[schema(required = true)]
    dead_letter_reason: Option<String>,
}

impl JourneyView {
    pub(super) fn new(order: &Order, events: Vec<EventJourney>) -> Self {
        Self {
            order_id: order.id,
            created_at: order.created_at,
            state: order.state(),
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
