//! Every request to Kafka, each under a deadline, and the form events have there.
//!
//! Records move over connections of our own ([`writer`], [`reader`]); topics are looked up and created
//! by rskafka. Every call ends, and what a failure means for the caller is part of the error.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod brokers;
pub mod cluster;
mod compression;
mod connection;
pub mod envelope;
pub mod error;
mod fetch;
pub mod partitioner;
mod produce;
pub mod reader;
pub mod record;
mod record_batch;
pub mod topic_name;
mod transport;
mod wire;
pub mod writer;

pub use brokers::Brokers;
pub use cluster::Cluster;
pub use envelope::{Envelope, InvalidEnvelope};
pub use error::{ErrorCode, ErrorKind, HIDDEN_TOPIC, KafkaError};
pub use partitioner::partition_of;
pub use produce::OutgoingRecord;
pub use reader::{Fetched, PartitionReader};
pub use record::{IncomingRecord, LARGEST_RECORD};
pub use topic_name::{InvalidTopicName, check_topic_name};
pub use writer::{PRODUCE_DEADLINE, PartitionWriter};
