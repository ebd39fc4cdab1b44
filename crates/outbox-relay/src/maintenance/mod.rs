//! What goes on beside the pipeline: it observes the outbox, judges whether work goes on, and deletes
//! what is old. Nothing here moves an event.

mod first_waiting;
pub(crate) mod health;
pub(crate) mod observer;
pub(crate) mod retention;
