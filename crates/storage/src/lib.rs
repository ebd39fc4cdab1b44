//! Every SQL statement of the project, a module per table family.
//!
//! Functions take a connection, never a pool, and run inside whatever transaction the caller
//! opened. Nothing here knows of Kafka or HTTP. Deadlines: see [`connection`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cached;
pub mod connection;
pub mod dead_letters;
pub mod error;
pub mod fault;
pub mod idempotency;
pub mod inbox;
pub mod inbox_retention;
pub mod journey;
pub mod lease;
pub mod migrations;
pub mod notify;
pub mod orders;
pub mod outbox;
mod own_connection;
pub mod product_sales;
mod xid;

pub use connection::{Database, Session};
/// What a transaction reports of its own beginning and end.
pub use diesel::result::Error as TransactionError;
/// The connection every function here takes.
pub use diesel_async::AsyncPgConnection as Connection;
pub use error::{StorageError, within};
pub use fault::Fault;
pub use own_connection::OwnConnection;
