//! Producing to one partition, one request at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rskafka::client::partition::{Compression, PartitionClient};
use rskafka::record::Record;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::{KafkaError, within};

/// What every produce request has. The client asks the broker to wait 30 s for its followers. To give up
/// earlier would append a copy per attempt while one of them is slow.
pub const PRODUCE_DEADLINE: Duration = Duration::from_secs(35);

/// A connection without a request for so long is closed. Brokers do so after ten minutes, and to learn
/// of that by a request leaves its outcome unknown; and there may be very many partitions.
const IDLE: Duration = Duration::from_mins(1);

/// A record on its way to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRecord {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: BTreeMap<String, Vec<u8>>,
}

/// Writes to one partition. `&mut` on every call keeps one request in flight: a retry can then
/// never overtake what was sent after it.
pub struct PartitionWriter {
    cluster: Cluster,
    topic: String,
    partition: i32,
    /// With the time of its latest request.
    connection: Option<(PartitionClient, Instant)>,
}

impl PartitionWriter {
    /// Connects when first used.
    pub fn new(cluster: Cluster, topic: impl Into<String>, partition: i32) -> Self {
        Self {
            cluster,
            topic: topic.into(),
            partition,
            connection: None,
        }
    }

    /// Appends `records` in order and returns the offset of the first; the others follow it
    /// without a gap. Waits for all in-sync replicas.
    ///
    /// # Errors
    /// After [`KafkaError::Deadline`] and [`KafkaError::Connection`] the records may or may not
    /// have been appended. The connection is made anew by the next call.
    ///
    /// # Cancellation
    /// Dropped midway, the records may or may not be appended.
    pub async fn produce(&mut self, records: Vec<OutgoingRecord>) -> Result<i64, KafkaError> {
        let now = now();
        let batch = records
            .into_iter()
            .map(|record| to_wire(record, now))
            .collect();
        // Taken out, so that a call that fails or is dropped leaves no connection behind.
        let connection = match self.connection.take() {
            Some((connection, _)) => connection,
            None => self.cluster.partition(&self.topic, self.partition).await?,
        };
        let produced = within(
            PRODUCE_DEADLINE,
            connection.produce(batch, Compression::NoCompression),
        )
        .await;
        let offsets = match produced {
            Ok(offsets) => offsets,
            Err(error) => {
                self.cluster.reconnect_after(&error);
                return Err(error);
            }
        };
        self.connection = Some((connection, Instant::now()));
        offsets
            .first()
            .copied()
            .ok_or_else(|| KafkaError::Connection("produce acknowledged no offset".to_owned()))
    }

    /// Closes the connection as soon as it has been idle for a minute; waits for that, for ever where
    /// there is none. The next [`Self::produce`] connects anew.
    ///
    /// # Cancellation
    /// Dropped midway, nothing has happened; the minute counts from the latest request.
    pub async fn close_when_idle(&mut self) {
        match &self.connection {
            Some((_, used)) => tokio::time::sleep_until(*used + IDLE).await,
            None => std::future::pending().await,
        }
        self.connection = None;
    }
}

/// Whole milliseconds, as the protocol carries them.
fn now() -> DateTime<Utc> {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

fn to_wire(record: OutgoingRecord, timestamp: DateTime<Utc>) -> Record {
    Record {
        key: Some(record.key),
        value: Some(record.value),
        headers: record.headers,
        timestamp,
    }
}
