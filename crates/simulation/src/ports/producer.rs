//! Kafka for the relay, over the network.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use messaging::{ErrorCode, KafkaError, OutgoingRecord, PRODUCE_DEADLINE};
use outbox_relay::ports::{Producer, RecordWriter};
use tokio::time::{Instant, timeout};

use crate::world::{Broken, Fault, Host, HostId, Record, Server, Sim, refusal};

const DEADLINE: Duration = Duration::from_secs(10);
/// A connection that is idle for so long is closed.
const IDLE: Duration = Duration::from_mins(1);

/// Kafka, as one process reaches it.
pub struct SimProducer {
    pub host: Host,
}

/// How a caller sees the end of a request.
pub(super) async fn answered<T>(
    deadline: Duration,
    request: impl Future<Output = Result<Result<T, KafkaError>, Broken>>,
) -> Result<T, KafkaError> {
    match timeout(deadline, request).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(Broken)) => Err(KafkaError::Connection("the connection broke".to_owned())),
        Err(_) => Err(KafkaError::Deadline(deadline)),
    }
}

/// Asks any broker.
pub(super) async fn ask<T: Send + 'static>(
    host: &Host,
    serve: impl FnOnce(&Sim) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    let sim = host.sim.clone();
    let broker = {
        let brokers = sim.world().kafka.brokers;
        let chance = sim.chance();
        // Rounded down: brokers are few.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let broker = (chance * brokers as f64) as usize;
        broker.min(brokers - 1)
    };
    let serve = async move { Some(serve(&sim)) };
    answered(DEADLINE, host.request(Server::Broker(broker), serve)).await
}

/// The number of partitions of each topic.
pub(super) async fn partition_counts(host: &Host) -> Result<HashMap<String, i32>, KafkaError> {
    ask(host, |sim| {
        let world = sim.world();
        let topics = world.kafka.topics.iter();
        Ok(topics
            .map(|(name, topic)| {
                let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                (name.clone(), count)
            })
            .collect())
    })
    .await
}

/// Creates a topic; false if it exists.
pub(super) async fn create_topic(
    host: &Host,
    topic: &str,
    partitions: i32,
) -> Result<bool, KafkaError> {
    let topic = topic.to_owned();
    ask(host, move |sim| {
        let now = sim.now();
        let world = &mut *sim.world();
        if world.trouble.is(&Fault::CreationRefused, now) {
            return Err(refusal(ErrorCode::PolicyViolation));
        }
        Ok(world.kafka.create(&topic, partitions))
    })
    .await
}

#[async_trait]
impl Producer for SimProducer {
    async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError> {
        partition_counts(&self.host).await
    }

    async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        _replication_factor: i16,
    ) -> Result<bool, KafkaError> {
        create_topic(&self.host, topic, partitions).await
    }

    fn writer(&self, topic: &str, partition: i32) -> Box<dyn RecordWriter> {
        Box::new(SimWriter {
            host: self.host.clone(),
            topic: topic.to_owned(),
            partition,
            used: None,
            throttled_until: Duration::ZERO,
        })
    }
}

struct SimWriter {
    host: Host,
    topic: String,
    partition: i32,
    /// When the connection was used last.
    used: Option<Instant>,
    throttled_until: Duration,
}

#[async_trait]
impl RecordWriter for SimWriter {
    async fn produce(&mut self, records: Vec<OutgoingRecord>) -> Result<i64, KafkaError> {
        let sim = self.host.sim.clone();
        let throttled = self.throttled_until.saturating_sub(sim.now());
        tokio::time::sleep(throttled).await;
        self.host.awake().await;
        self.used = None;
        let (topic, partition) = (self.topic.clone(), self.partition);
        let leader = {
            let world = &mut *sim.world();
            world.kafka.partition(&topic, partition)?.leader
        };
        let request = sim.world().oracle.sends(&records);
        self.host.note(|| {
            let events = sim.world().oracle.describe(&records);
            format!("produces to {topic}/{partition}: {events}")
        });
        let serve = {
            let (sim, by) = (sim.clone(), self.host.id);
            async move { Some(append(&sim, (request, by), leader, (topic, partition), records).await) }
        };
        let sent = self.host.request(Server::Broker(leader), serve);
        let outcome = answered(PRODUCE_DEADLINE, sent).await;
        sim.world().oracle.answered(request, &outcome);
        self.host.note(|| {
            let to = format!("{}/{}", self.topic, self.partition);
            format!("was answered by {to}: {outcome:?}")
        });
        let offset = outcome?;
        self.used = Some(Instant::now());
        let now = sim.now();
        let throttle = sim.world().trouble.now(now).find_map(|fault| match fault {
            Fault::Throttles(ms) => Some(Duration::from_millis(*ms)),
            _ => None,
        });
        self.throttled_until = now + throttle.unwrap_or_default();
        Ok(offset)
    }

    async fn close_when_idle(&mut self) {
        match self.used {
            Some(used) => tokio::time::sleep_until(used + IDLE).await,
            None => std::future::pending().await,
        }
        self.used = None;
    }
}

/// What the broker does with a produce request.
async fn append(
    sim: &Sim,
    request: (u64, HostId),
    broker: usize,
    (topic, partition): (String, i32),
    records: Vec<OutgoingRecord>,
) -> Result<i64, KafkaError> {
    let stalls = Fault::Stalls(topic.clone(), partition);
    loop {
        let now = sim.now();
        let Some(until) = sim.world().trouble.until(&stalls, now) else {
            break;
        };
        tokio::time::sleep(until.saturating_sub(now)).await;
    }
    let now = sim.now();
    let violation = {
        let world = &mut *sim.world();
        let log = world.kafka.partition(&topic, partition)?;
        if log.leader != broker {
            return Err(refusal(ErrorCode::NotLeaderOrFollower));
        }
        let refuses = Fault::Refuses(topic.clone(), partition);
        if world.trouble.is(&refuses, now) {
            return Err(refusal(ErrorCode::NotEnoughReplicas));
        }
        if world.oracle.is_too_large(&records) {
            return Err(refusal(ErrorCode::MessageTooLarge));
        }
        let offset = log.end();
        log.records.extend(records.iter().map(|record| Record {
            at: now,
            record: record.clone(),
        }));
        let violation = world.oracle.appended(request, &records, now);
        let refuses = Fault::RefusesAfterAppend(topic.clone(), partition);
        if violation.is_none() {
            if world.trouble.is(&refuses, now) {
                sim.appended().notify_waiters();
                return Err(refusal(ErrorCode::NotEnoughReplicasAfterAppend));
            }
            sim.appended().notify_waiters();
            return Ok(offset);
        }
        violation
    };
    if let Some(violation) = violation {
        sim.violated(violation);
    }
    Err(refusal(ErrorCode::Unknown(0)))
}
