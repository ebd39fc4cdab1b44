//! Producing to one partition, one request at a time.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;
use crate::connection::Leader;
use crate::error::KafkaError;
use crate::produce::{OutgoingRecord, batch};

/// What every produce request has. The broker may wait 30 s for its in-sync replicas. To give up
/// earlier would append a copy per attempt while one of them is slow.
pub const PRODUCE_DEADLINE: Duration = Duration::from_secs(35);

/// A connection without a request for so long is closed. Brokers do so after ten minutes, and to learn
/// of that by a request leaves its outcome unknown; and there may be very many partitions.
const IDLE: Duration = Duration::from_mins(1);

/// Writes to one partition. `&mut` on every call keeps one request in flight: a retry can then
/// never overtake what was sent after it.
pub struct PartitionWriter {
    cluster: Cluster,
    topic: String,
    partition: i32,
    /// With the time of its latest request.
    leader: Option<(Leader, Instant)>,
}

impl PartitionWriter {
    /// Connects when first used.
    pub fn new(cluster: Cluster, topic: impl Into<String>, partition: i32) -> Self {
        Self {
            cluster,
            topic: topic.into(),
            partition,
            leader: None,
        }
    }

    /// Appends `records` in order and returns the offset of the first; the others follow it
    /// without a gap. Waits for all in-sync replicas. Waits before for as long as a quota demands,
    /// which counts towards no deadline.
    ///
    /// # Errors
    /// After [`KafkaError::Deadline`] and [`KafkaError::Connection`] the records may or may not
    /// have been appended. The next call connects again.
    ///
    /// # Cancellation
    /// Dropped midway, the records may or may not be appended.
    pub async fn produce(&mut self, records: Vec<OutgoingRecord>) -> Result<i64, KafkaError> {
        let batch = batch(&records, SystemTime::now());
        drop(records);
        if let Some((leader, _)) = &self.leader {
            leader.connection.unthrottled().await;
        }
        // Taken out, so that a call that fails or is dropped leaves no connection behind.
        let mut leader = match self.leader.take() {
            Some((leader, _)) => leader,
            None => self.cluster.leader(&self.topic, self.partition).await?,
        };
        let to = (self.topic.as_str(), self.partition);
        let produced = timeout(PRODUCE_DEADLINE, leader.produce(to, &batch)).await;
        let produced = produced.unwrap_or(Err(KafkaError::Deadline(PRODUCE_DEADLINE)));
        match produced {
            Ok(offset) => {
                self.leader = Some((leader, Instant::now()));
                Ok(offset)
            }
            Err(error) => {
                self.cluster.reconnect_after(&error);
                Err(error)
            }
        }
    }

    /// Closes the connection once it has been idle for a minute; waits for that, for ever if there
    /// is no connection. The next [`Self::produce`] connects again.
    ///
    /// # Cancellation
    /// Dropped midway, nothing has happened; the minute counts from the latest request.
    pub async fn close_when_idle(&mut self) {
        match &self.leader {
            Some((_, used)) => tokio::time::sleep_until(*used + IDLE).await,
            None => std::future::pending().await,
        }
        self.leader = None;
    }
}
