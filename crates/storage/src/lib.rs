//! Every SQL statement of the project, a module per table family.
//!
//! Functions take a connection, never a pool, and run inside whatever transaction the caller
//! opened. Nothing here knows of Kafka or HTTP. Deadlines: see [`connection`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod connection;
pub mod dead_letters;
pub mod error;
pub mod inbox;
pub mod journey;
pub mod lease;
pub mod migrations;
pub mod notify;
pub mod orders;
pub mod outbox;
pub mod product_sales;
mod xid;

pub use connection::{Database, Session};
/// The connection every function here takes.
pub use diesel_async::AsyncPgConnection as Connection;
pub use error::{StorageError, within};
