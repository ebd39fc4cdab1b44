//! Fetching from one partition.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rskafka::client::error::ProtocolError;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::connection::Leader;
use crate::error::{ErrorKind, KafkaError};
use crate::fetch::{Answer, Ends, Wanted};
use crate::record::IncomingRecord;

const DEADLINE: Duration = Duration::from_secs(10);

/// In requests for offsets, instead of a time.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Where topics have no ids, the last record is looked at again before what follows it is fetched,
/// when so much time has passed: the topic may be another one by now.
const PAUSE: Duration = Duration::from_secs(1);

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
    /// For how long a quota of Kafka delays the next fetch. One that brings no records because of it
    /// does not know the ends of the partition: they are those of the fetch before.
    pub throttle: Duration,
}

/// Reads one partition.
///
/// Where brokers know topics by id (Kafka 3.1) all fetches of a reader are from the same topic: when
/// it is deleted and created again, the next one fails. Where they do not, a reader that has paused
/// makes sure that the last record it read is still there.
pub struct PartitionReader {
    cluster: Cluster,
    topic: String,
    partition: i32,
    leader: Option<Leader>,
    /// How the topic that is read is known, once it is.
    identity: Option<Identity>,
    ends: Option<Ends>,
    last: Option<Last>,
}

/// What a topic is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Name,
    Id(Uuid),
}

impl Identity {
    fn of(leader: &Leader) -> Self {
        leader.topic_id.map_or(Self::Name, Self::Id)
    }

    fn id(self) -> Option<Uuid> {
        match self {
            Self::Name => None,
            Self::Id(id) => Some(id),
        }
    }
}

/// The last record that was read.
struct Last {
    offset: i64,
    fingerprint: u64,
    /// When it was known to be there.
    at: Instant,
}

fn fingerprint(record: &IncomingRecord) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.hash(&mut hasher);
    hasher.finish()
}

impl PartitionReader {
    /// Connects when first used.
    pub fn new(cluster: Cluster, topic: impl Into<String>, partition: i32) -> Self {
        Self {
            cluster,
            topic: topic.into(),
            partition,
            leader: None,
            identity: None,
            ends: None,
            last: None,
        }
    }

    /// The id of the topic that is read: another one if it was deleted and created again. `None`
    /// where brokers do not know topics by id.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn topic_id(&mut self) -> Result<Option<Uuid>, KafkaError> {
        if let Some(identity) = self.identity {
            return Ok(identity.id());
        }
        let leader = self.leader().await?;
        let identity = *self.identity.insert(Identity::of(&leader));
        self.leader = Some(leader);
        Ok(identity.id())
    }

    /// Fetches from `offset` on: as soon as there is a record, or after `max_wait` with none.
    /// About `max_bytes` of what Kafka stores at most, and some megabytes of what is unpacked; one
    /// larger record still comes whole, up to [`LARGEST_RECORD`](crate::LARGEST_RECORD). Records of transactions that are
    /// open or were aborted are not delivered. Waits before for as long as a quota demands.
    ///
    /// # Errors
    /// [`crate::ErrorKind::OutOfRange`] when the partition does not have `offset`.
    ///
    /// # Cancellation
    /// Safe: nothing is lost, and the next call connects again.
    pub async fn fetch(
        &mut self,
        offset: i64,
        max_bytes: i32,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError> {
        if let Some(known) = self.doubtful(offset) {
            match self.fetch_from(known.offset, max_bytes, max_wait).await {
                Ok(fetched) => return self.beyond(&known, fetched, offset),
                // Kafka may have deleted it, and no more than it.
                Err(error) if error.kind() == ErrorKind::OutOfRange => {}
                Err(error) => return Err(error),
            }
        }
        let fetched = self.fetch_from(offset, max_bytes, max_wait).await?;
        self.remember(&fetched);
        Ok(fetched)
    }

    /// The last record, where it must be looked at before what follows is fetched.
    fn doubtful(&mut self, offset: i64) -> Option<Last> {
        let by_name = self.identity == Some(Identity::Name);
        self.last
            .take_if(|last| by_name && last.offset < offset && last.at.elapsed() > PAUSE)
    }

    /// What follows the last record, if that is still the one it was.
    fn beyond(
        &mut self,
        known: &Last,
        mut fetched: Fetched,
        offset: i64,
    ) -> Result<Fetched, KafkaError> {
        // One that was compacted away tells nothing.
        let found = fetched.records.first();
        if let Some(found) = found.filter(|found| found.offset == known.offset)
            && fingerprint(found) != known.fingerprint
        {
            self.leader = None;
            return Err(KafkaError::AnotherRecord {
                offset: known.offset,
            });
        }
        self.remember(&fetched);
        fetched.records.retain(|record| record.offset >= offset);
        fetched.next_offset = fetched.next_offset.max(offset);
        Ok(fetched)
    }

    fn remember(&mut self, fetched: &Fetched) {
        if let Some(last) = fetched.records.last() {
            self.last = Some(Last {
                offset: last.offset,
                fingerprint: fingerprint(last),
                at: Instant::now(),
            });
        } else if let Some(last) = &mut self.last {
            last.at = Instant::now();
        }
    }

    async fn fetch_from(
        &mut self,
        offset: i64,
        max_bytes: i32,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError> {
        let wanted = Wanted {
            topic: &self.topic.clone(),
            partition: self.partition,
            offset,
            max_bytes,
            wait_ms: i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX),
        };
        // Taken out, so that a call that fails or is dropped leaves none behind.
        let mut leader = self.leader().await?;
        let identity = Identity::of(&leader);
        if *self.identity.get_or_insert(identity) != identity {
            return Err(KafkaError::Broker {
                code: ProtocolError::UnknownTopicId,
                detail: Some("the topic was created again".to_owned()),
            });
        }
        let answer: Answer = self.within(max_wait, leader.fetch(wanted)).await?;
        self.leader = Some(leader);
        let throttle = answer.throttle;
        let nothing = Ends {
            high_watermark: offset,
            stable_offset: offset,
        };
        let ends = answer.ends.or(self.ends).unwrap_or(nothing);
        self.ends = Some(ends);
        // Unpacking may take long enough to keep others from their work.
        let reading = tokio::task::spawn_blocking(move || answer.read(offset));
        let records = reading
            .await
            .map_err(|error| KafkaError::Connection(format!("reading has ended: {error}")))??;
        Ok(Fetched {
            next_offset: records.next_offset,
            records: records.records,
            high_watermark: ends.high_watermark,
            stable_offset: ends.stable_offset,
            throttle,
        })
    }

    /// The lowest offset the partition still has.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn earliest(&mut self) -> Result<i64, KafkaError> {
        self.offset(EARLIEST).await
    }

    /// The offset the next record to be written will have; that of the first open transaction if
    /// there is one.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn latest(&mut self) -> Result<i64, KafkaError> {
        self.offset(LATEST).await
    }

    /// The offset of the first record written at `time` or later; [`Self::latest`] if there is none.
    ///
    /// # Errors
    /// When Kafka gives no answer.
    pub async fn first_since(&mut self, time: OffsetDateTime) -> Result<i64, KafkaError> {
        let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        match self.offset(millis.max(0)).await? {
            offset if offset >= 0 => Ok(offset),
            _none => self.latest().await,
        }
    }

    async fn offset(&mut self, at: i64) -> Result<i64, KafkaError> {
        // Taken out, as above.
        let mut leader = self.leader().await?;
        let place = (self.topic.as_str(), self.partition);
        let asking = leader.connection.offset(place, at);
        let offset = self.within(Duration::ZERO, asking).await?;
        self.leader = Some(leader);
        Ok(offset)
    }

    /// Takes the connection, when it may be used again, or makes one.
    async fn leader(&mut self) -> Result<Leader, KafkaError> {
        if let Some(leader) = &self.leader {
            leader.connection.unthrottled().await;
        }
        match self.leader.take() {
            Some(leader) => Ok(leader),
            None => self.cluster.leader(&self.topic, self.partition).await,
        }
    }

    async fn within<T>(
        &self,
        wait: Duration,
        request: impl Future<Output = Result<T, KafkaError>>,
    ) -> Result<T, KafkaError> {
        let limit = wait + DEADLINE;
        match timeout(limit, request).await {
            Ok(outcome) => outcome,
            Err(_) => Err(KafkaError::Deadline(limit)),
        }
    }
}
