//! What a stack is to its clients.

use serde::Serialize;

/// A running stack: what clients need to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// `postgres://outbox:outbox@127.0.0.1:PORT/outbox`.
    pub database_url: String,
    /// `127.0.0.1:PORT`.
    pub kafka_brokers: String,
    /// Postgres' main process.
    pub postgres_pid: u32,
    /// Kafka's process.
    pub kafka_pid: u32,
}

/// One server of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The Postgres.
    Postgres,
    /// The Kafka node.
    Kafka,
}
