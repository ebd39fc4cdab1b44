//! Kafka for the consumer, over the network.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use messaging::{ErrorCode, Fetched, IncomingRecord, KafkaError};
use order_consumer::ports::{RecordReader, RecordSource};
use uuid::Uuid;

use super::producer::{answered, create_topic, partition_counts};
use crate::database::Database;
use crate::world::{Fault, Host, Partition, Record, Server, Sim, refusal};

const DEADLINE: Duration = Duration::from_secs(10);
/// What one record counts of the bytes that a fetch may bring.
const RECORD_BYTES: i32 = 4_096;

/// Kafka, as one process reaches it.
pub struct SimSource {
    pub host: Host,
}

#[async_trait]
impl RecordSource for SimSource {
    async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError> {
        partition_counts(&self.host).await
    }

    async fn ensure_topic(
        &self,
        topic: &str,
        partitions: i32,
        _replication_factor: i16,
    ) -> Result<bool, KafkaError> {
        if partition_counts(&self.host).await?.contains_key(topic) {
            return Ok(false);
        }
        create_topic(&self.host, topic, partitions).await
    }

    fn reader(&self, topic: &str, partition: i32) -> Box<dyn RecordReader> {
        Box::new(SimReader {
            host: self.host.clone(),
            topic: topic.to_owned(),
            partition,
            id: None,
        })
    }
}

struct SimReader {
    host: Host,
    topic: String,
    partition: i32,
    /// Of the topic that is read, once it is known.
    id: Option<Uuid>,
}

/// The partition, if it is still that of this topic.
fn of_topic<'a>(
    world: &'a mut crate::world::World,
    topic: &str,
    partition: i32,
    id: Uuid,
) -> Result<&'a mut Partition, KafkaError> {
    if world.kafka.topics.get(topic).is_none_or(|t| t.id != id) {
        return Err(refusal(ErrorCode::UnknownTopicId));
    }
    world.kafka.partition(topic, partition)
}

impl SimReader {
    /// Asks the leader of the partition.
    async fn ask<T: Send + 'static>(
        &mut self,
        deadline: Duration,
        serve: impl AsyncFnOnceSend<T>,
    ) -> Result<T, KafkaError> {
        let id = self.identify().await?;
        let (sim, topic, partition) = (self.host.sim.clone(), self.topic.clone(), self.partition);
        let leader = sim.world().kafka.partition(&topic, partition)?.leader;
        let place = Place {
            sim,
            topic,
            partition,
            id,
        };
        let request = self.host.request(Server::Broker(leader), async move {
            Some(serve.call(place).await)
        });
        answered(deadline, request).await
    }

    async fn identify(&mut self) -> Result<Uuid, KafkaError> {
        if let Some(id) = self.id {
            return Ok(id);
        }
        let topic = self.topic.clone();
        let found = super::producer::ask(&self.host, move |sim| {
            let world = sim.world();
            let topic = world.kafka.topics.get(&topic);
            let topic = topic.ok_or_else(|| refusal(ErrorCode::UnknownTopicOrPartition));
            topic.map(|topic| topic.id)
        });
        let id = found.await?;
        self.id = Some(id);
        Ok(id)
    }
}

/// Where a request is served.
struct Place {
    sim: Sim,
    topic: String,
    partition: i32,
    id: Uuid,
}

impl Place {
    fn with<T>(&self, look: impl FnOnce(&mut Partition) -> T) -> Result<T, KafkaError> {
        let world = &mut *self.sim.world();
        of_topic(world, &self.topic, self.partition, self.id).map(look)
    }
}

/// What a broker does with a request.
trait AsyncFnOnceSend<T>: Send + 'static {
    fn call(self, place: Place) -> impl Future<Output = Result<T, KafkaError>> + Send;
}

impl<T, F, R> AsyncFnOnceSend<T> for F
where
    F: FnOnce(Place) -> R + Send + 'static,
    R: Future<Output = Result<T, KafkaError>> + Send,
{
    fn call(self, place: Place) -> impl Future<Output = Result<T, KafkaError>> + Send {
        self(place)
    }
}

#[async_trait]
impl RecordReader for SimReader {
    async fn topic_id(&mut self) -> Result<Option<Uuid>, KafkaError> {
        self.identify().await.map(Some)
    }

    async fn fetch(
        &mut self,
        offset: i64,
        max_bytes: i32,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError> {
        let most = usize::try_from((max_bytes / RECORD_BYTES).max(1)).unwrap_or(1);
        let fetched = self
            .ask(DEADLINE + max_wait, move |place: Place| async move {
                fetch(&place, offset, most, max_wait).await
            })
            .await;
        if let Ok(fetched) = &fetched
            && !fetched.throttle.is_zero()
        {
            tokio::time::sleep(fetched.throttle).await;
        }
        fetched
    }

    async fn earliest(&mut self) -> Result<i64, KafkaError> {
        self.ask(DEADLINE, |place: Place| async move {
            place.with(|p| p.log_start)
        })
        .await
    }

    async fn latest(&mut self) -> Result<i64, KafkaError> {
        self.ask(
            DEADLINE,
            |place: Place| async move { place.with(|p| p.end()) },
        )
        .await
    }

    async fn first_younger_than(&mut self, age: Duration) -> Result<i64, KafkaError> {
        self.ask(DEADLINE, move |place: Place| async move {
            let oldest = place.sim.now().saturating_sub(age);
            place.with(|partition| {
                let young = partition.records.iter().position(|r| r.at >= oldest);
                let young = young.and_then(|place| i64::try_from(place).ok());
                young.unwrap_or(partition.end()).max(partition.log_start)
            })
        })
        .await
    }
}

async fn fetch(
    place: &Place,
    offset: i64,
    most: usize,
    max_wait: Duration,
) -> Result<Fetched, KafkaError> {
    let ends = place.sim.now() + max_wait;
    loop {
        let appended = place.sim.appended().notified();
        let mut appended = std::pin::pin!(appended);
        appended.as_mut().enable();
        let now = place.sim.now();
        let throttle = place
            .sim
            .world()
            .trouble
            .now(now)
            .find_map(|fault| match fault {
                Fault::Throttles(ms) => Some(Duration::from_millis(*ms)),
                _ => None,
            });
        let throttle = throttle.unwrap_or_default();
        let fetched = place.with(|partition| {
            let (start, end) = (partition.log_start, partition.end());
            if offset < start || offset > end {
                return Err(refusal(ErrorCode::OffsetOutOfRange));
            }
            let first = usize::try_from(offset).unwrap_or_default();
            let records = partition.records.iter().enumerate();
            let records: Vec<IncomingRecord> = records
                .skip(first)
                .take(most)
                .map(|(place, record)| incoming(place, record))
                .collect();
            let next_offset = records.last().map_or(offset, |last| last.offset + 1);
            Ok(Fetched {
                records,
                next_offset,
                high_watermark: end,
                stable_offset: end,
                throttle,
            })
        })??;
        if !fetched.records.is_empty() || now >= ends {
            return Ok(fetched);
        }
        let _ = tokio::time::timeout(ends.saturating_sub(now), appended).await;
    }
}

fn incoming(place: usize, record: &Record) -> IncomingRecord {
    IncomingRecord {
        offset: i64::try_from(place).unwrap_or(i64::MAX),
        timestamp: Database::time(record.at),
        key: Some(record.record.key.clone()),
        value: record.record.value.clone(),
        headers: record
            .record
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        odd_headers: Vec::new(),
        omitted_bytes: None,
    }
}
