//! Which topics there are, and which partition an event goes to.
//!
//! [`refresh`] looks the topics up and creates those that are [`missing`]; what it knows is the
//! [`routing_table`]. Topics that Kafka [`rejected`] are not tried again for a while. [`unroutable`]
//! keeps which topics events wait for.

mod missing;
pub(crate) mod refresh;
mod rejected;
pub(crate) mod routing_table;
pub(crate) mod unroutable;
