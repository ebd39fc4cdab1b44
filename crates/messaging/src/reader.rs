//! Fetching from one partition.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use rskafka::client::partition::{OffsetAt, PartitionClient};
use time::OffsetDateTime;

use crate::cluster::Cluster;
use crate::error::{KafkaError, within};
use crate::fetch::Connection;

const DEADLINE: Duration = Duration::from_secs(10);

/// In bytes, unpacked. Of a larger record only what identifies it is read.
pub const LARGEST_RECORD: usize = 16 * 1024 * 1024;

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
    /// Headers that `headers` cannot hold: earlier ones of a name that comes again, names that are
    /// not UTF-8, headers without a value.
    pub odd_headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Size of a record that is larger than [`LARGEST_RECORD`]: it comes without value and headers,
    /// and without a key of tens of kilobytes.
    pub omitted_bytes: Option<usize>,
}

impl IncomingRecord {
    /// Adds a header behind the others.
    pub fn push_header(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        match (std::str::from_utf8(name), value) {
            (Ok(text), Some(value)) => {
                if let Some(earlier) = self.headers.insert(text.to_owned(), value) {
                    self.odd_headers.push((name.to_vec(), Some(earlier)));
                }
            }
            (_, value) => self.odd_headers.push((name.to_vec(), value)),
        }
    }

    /// Every header in bytes. Given to [`Self::push_header`] in this order they make the same
    /// `headers`.
    pub fn all_headers(&self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let named = self.headers.iter();
        let named = named.map(|(name, value)| (name.clone().into_bytes(), Some(value.clone())));
        self.odd_headers.iter().cloned().chain(named).collect()
    }
}

/// What one fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Ascending by offset, none below the one asked for.
    pub records: Vec<IncomingRecord>,
    /// Where to fetch next: beyond the last record, and beyond whatever follows it that is no
    /// record (markers of transactions, what was aborted or compacted away).
    pub next_offset: i64,
    /// The offset the next record to be written will have.
    pub high_watermark: i64,
    /// Nothing from here on is delivered yet: a transaction is open. Else the high watermark.
    pub stable_offset: i64,
}

/// Reads one partition.
pub struct PartitionReader {
    cluster: Cluster,
    topic: String,
    partition: i32,
    connection: Option<Connection>,
    offsets: Option<PartitionClient>,
}

impl PartitionReader {
    /// Connects when first used.
    pub fn new(cluster: Cluster, topic: impl Into<String>, partition: i32) -> Self {
        Self {
            cluster,
            topic: topic.into(),
            partition,
            connection: None,
            offsets: None,
        }
    }

    /// Fetches from `offset` on: as soon as there is a record, or after `max_wait` with none.
    /// About `max_bytes` of what Kafka stores at most, and some megabytes of what is unpacked; one
    /// larger record still comes whole, up to [`LARGEST_RECORD`]. Records of transactions that are
    /// open or were aborted are not delivered.
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
        // Taken out, so that a call that fails or is dropped leaves none behind.
        let connection = self.connection.take();
        let wait_ms = i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX);
        let fetching = async {
            let mut connection = if let Some(connection) = connection {
                connection
            } else {
                let brokers = self.cluster.brokers().addresses();
                Connection::to_leader(brokers, &self.topic, self.partition).await?
            };
            let place = (self.topic.as_str(), self.partition);
            let answer = connection.fetch(place, offset, max_bytes, wait_ms).await?;
            Ok((connection, answer))
        };
        let limit = max_wait + DEADLINE;
        let (connection, answer) = tokio::time::timeout(limit, fetching)
            .await
            .unwrap_or(Err(KafkaError::Deadline(limit)))?;
        self.connection = Some(connection);
        let (high_watermark, stable_offset) = (answer.high_watermark, answer.stable_offset);
        // Unpacking may take long enough to keep others from their work.
        let reading = tokio::task::spawn_blocking(move || answer.read(offset));
        let records = reading
            .await
            .map_err(|error| KafkaError::Connection(format!("reading has ended: {error}")))??;
        Ok(Fetched {
            next_offset: records.next_offset,
            records: records.records,
            high_watermark,
            stable_offset: stable_offset.min(high_watermark),
        })
    }

    /// The lowest offset the partition still has.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn earliest(&mut self) -> Result<i64, KafkaError> {
        self.offset(OffsetAt::Earliest).await
    }

    /// The offset the next record to be written will have; that of the first open transaction if
    /// there is one.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn latest(&mut self) -> Result<i64, KafkaError> {
        self.offset(OffsetAt::Latest).await
    }

    /// The offset of the first record written at `time` or later; [`Self::latest`] if there is none.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn first_since(&mut self, time: OffsetDateTime) -> Result<i64, KafkaError> {
        let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let Some(time) = DateTime::from_timestamp_millis(millis) else {
            return self.latest().await;
        };
        match self.offset(OffsetAt::Timestamp(time)).await? {
            offset if offset >= 0 => Ok(offset),
            _none => self.latest().await,
        }
    }

    async fn offset(&mut self, at: OffsetAt) -> Result<i64, KafkaError> {
        // Taken out, as above.
        let client = match self.offsets.take() {
            Some(client) => client,
            None => self.cluster.partition(&self.topic, self.partition).await?,
        };
        let offset = within(DEADLINE, client.get_offset(at)).await;
        if let Err(error) = &offset {
            self.cluster.reconnect_after(error);
        }
        self.offsets = Some(client);
        offset
    }
}
