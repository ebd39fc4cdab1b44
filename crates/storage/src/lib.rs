//! Every SQL statement of the project, a module per table family. [`pg`] holds what they share.
//!
//! Functions take a connection, never a pool, and run inside whatever transaction the caller
//! opened. Nothing here knows of Kafka or HTTP. Deadlines: see [`pg::connection`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod idempotency;
pub mod inbox;
pub mod journey;
pub mod lease;
pub mod migrations;
pub mod notify;
pub mod orders;
pub mod outbox;
pub mod pg;
pub mod product_sales;

/// What a transaction reports of its own beginning and end.
pub use diesel::result::Error as TransactionError;
/// The connection every function here takes.
pub use diesel_async::AsyncPgConnection as Connection;
pub use pg::connection::{Database, Session};
pub use pg::dedicated_connection::DedicatedConnection;
pub use pg::error::{StorageError, with_timeout};
pub use pg::fault::Fault;
