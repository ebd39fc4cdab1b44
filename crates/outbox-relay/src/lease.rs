//! The leases that share the outbox's slots among relays.

/// Their scope. Commands and the observer ask by it who owns which slot.
pub(crate) const LEASE_SCOPE: &str = "outbox-relay";
