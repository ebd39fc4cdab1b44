//! Partitions that cannot be written: a circuit breaker for each, and the way back of their events.
//!
//! While a circuit is open, the events of its partition move to `outbox_held`, in order. From there on
//! only the table counts: nothing about held events is kept in memory from one statement to the next.
//! [`floors`] keeps later events from overtaking those that are held; [`recovery`] moves held ones
//! back to pending, where they are read like any other.

pub(crate) mod circuits;
pub(crate) mod floors;
pub(crate) mod recovery;
