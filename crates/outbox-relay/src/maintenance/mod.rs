//! What runs beside the pipeline: it observes the outbox, reports whether the pipeline makes
//! progress, and deletes old events. Nothing here moves an event.

mod first_waiting;
pub(crate) mod health;
pub(crate) mod observer;
pub(crate) mod retention;
