//! Fetching from one partition.

use std::collections::BTreeMap;
use std::time::Duration;

use rskafka::client::partition::{OffsetAt, PartitionClient};
use rskafka::record::RecordAndOffset;
use time::OffsetDateTime;

use crate::cluster::Cluster;
use crate::error::{KafkaError, within};

const DEADLINE: Duration = Duration::from_secs(10);

/// A record as Kafka has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingRecord {
    pub offset: i64,
    pub timestamp: OffsetDateTime,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// By name. Of headers with the same name the last stays.
    pub headers: BTreeMap<String, Vec<u8>>,
}

/// What one fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Ascending by offset, none below the one asked for.
    pub records: Vec<IncomingRecord>,
    /// The offset the next record to be written will have.
    pub high_watermark: i64,
}

/// Reads one partition.
pub struct PartitionReader {
    cluster: Cluster,
    topic: String,
    partition: i32,
    connection: Option<PartitionClient>,
}

impl PartitionReader {
    /// Connects when first used.
    pub fn new(cluster: Cluster, topic: impl Into<String>, partition: i32) -> Self {
        Self {
            cluster,
            topic: topic.into(),
            partition,
            connection: None,
        }
    }

    /// Fetches from `offset` on: as soon as there is a record, or after `max_wait` with none.
    /// About `max_bytes` at most; one larger record still comes whole.
    ///
    /// # Errors
    /// [`crate::Failure::OutOfRange`] when the partition does not have `offset`.
    ///
    /// # Cancellation
    /// Safe: nothing is lost, the next call connects anew.
    pub async fn fetch(
        &mut self,
        offset: i64,
        max_bytes: i32,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError> {
        let connection = self.connect().await?;
        let wait_ms = i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX);
        let fetched = within(
            max_wait + DEADLINE,
            connection.fetch_records(offset, 1..max_bytes, wait_ms),
        )
        .await;
        let (records, high_watermark) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                self.cluster.reconnect_after(&error).await;
                return Err(error);
            }
        };
        self.connection = Some(connection);
        Ok(Fetched {
            records: records.into_iter().map(from_wire).collect(),
            high_watermark,
        })
    }

    /// The lowest offset the partition still has.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn earliest(&mut self) -> Result<i64, KafkaError> {
        self.offset(OffsetAt::Earliest).await
    }

    /// The offset the next record to be written will have.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn latest(&mut self) -> Result<i64, KafkaError> {
        self.offset(OffsetAt::Latest).await
    }

    async fn offset(&mut self, at: OffsetAt) -> Result<i64, KafkaError> {
        let connection = self.connect().await?;
        let offset = within(DEADLINE, connection.get_offset(at)).await?;
        self.connection = Some(connection);
        Ok(offset)
    }

    /// Takes the connection out, so that a call that fails or is dropped leaves none behind.
    async fn connect(&mut self) -> Result<PartitionClient, KafkaError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.cluster.partition(&self.topic, self.partition).await,
        }
    }
}

fn from_wire(fetched: RecordAndOffset) -> IncomingRecord {
    let millis = fetched.record.timestamp.timestamp_millis();
    IncomingRecord {
        offset: fetched.offset,
        timestamp: OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        key: fetched.record.key,
        value: fetched.record.value,
        headers: fetched.record.headers,
    }
}
