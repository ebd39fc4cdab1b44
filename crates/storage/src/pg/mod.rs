//! Postgres itself: connections, statements, row versions, and what can go wrong. Names no table.

pub(crate) mod cached;
pub mod connection;
pub(crate) mod dedicated_connection;
pub mod error;
pub mod fault;
pub(crate) mod name;
pub mod outlook;
pub(crate) mod xid;
