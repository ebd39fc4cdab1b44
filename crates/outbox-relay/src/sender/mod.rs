//! One sender per Kafka partition, with one request in flight.
//!
//! [`pool`] starts them, [`delivery`] is the loop of each, [`requests`] what a loop asks Kafka for. How
//! much goes into a request is decided in [`batch_size`]; which events must not be sent after one that
//! was not, in [`blocked_keys`] and [`diverted`].

pub mod batch_size;
mod blocked_keys;
mod delivery;
mod diverted;
pub(crate) mod pool;
pub(crate) mod requests;
