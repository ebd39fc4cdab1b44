//! What an order, an outbox event, an inbox entry and each event type are.
//!
//! Pure: values, their rules and their wire forms. No I/O, no database types, no Kafka client.
//! A value of a type from here is valid; what comes from outside is parsed into one or refused.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod events;
pub mod inbox;
pub mod order;
pub mod outbox;

pub use events::order_cancelled::OrderCancelled;
pub use events::order_created::OrderCreated;
pub use events::{EncodedEvent, EventType};
pub use inbox::{Position, Received, dead_letter_topic};
pub use order::{Order, OrderId, OrderState, ProductId, Quantity, TooLateToCancel};
pub use outbox::{Body, Content, EventId, EventState, NewEvent, OutboxEvent, Slot};
