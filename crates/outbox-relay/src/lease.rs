//! Names that the relay is known by to Postgres.

/// Of the process, as its logs and sessions show it.
pub(crate) const NAME: &str = "outbox-relay";

/// The scope of the leases that share the outbox's slots among relays.
pub(crate) const LEASE_SCOPE: &str = "outbox-relay";
