//! Produces to one partition: one request in flight, retried until Kafka has it.
//!
//! What it holds it sends in order, hands to the holder, or drops. An event whose slot was lost is
//! dropped, and with it every later one of that slot, so that what is missing of a slot is always
//! its end. One that can never be produced is found by halving, and holds back its key alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::{OutboxEvent, Slot};
use messaging::{Failure, KafkaError, PartitionWriter, envelope};
use service::{Backoff, CancellationToken};
use storage::lease::Leases;
use storage::outbox::{Hold, HoldCause, RowVersion, Settled};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::chunk;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::partitions::{Partition, Partitions, State};
use crate::poison::Poison;
use crate::recovery::Probe;
use crate::relay::Returned;
use crate::settler::Acknowledged;

/// Time between two log lines about the same failing partition.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// Kafka being back, the next attempt must not be far.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// An event on its way.
#[derive(Debug)]
pub(crate) struct Dispatched {
    pub(crate) slot: Slot,
    /// The epoch its slot was owned under when it was read.
    pub(crate) epoch: i64,
    /// The read that brought it; grows.
    pub(crate) batch: u64,
    pub(crate) id: i64,
    pub(crate) version: RowVersion,
    pub(crate) event: OutboxEvent,
}

impl Dispatched {
    pub(crate) fn to_hold(&self, cause: HoldCause, error: Option<String>, attempts: i32) -> Hold {
        Hold {
            slot: self.slot,
            epoch: self.epoch,
            id: self.id,
            version: self.version,
            topic: self.event.topic.clone(),
            key: self.event.key.clone(),
            cause,
            error,
            attempts,
        }
    }
}

/// Where a sender's events go on to. Cloned for each sender.
#[derive(Clone)]
pub(crate) struct Outlets {
    pub(crate) acknowledged: mpsc::Sender<Acknowledged>,
    pub(crate) holds: mpsc::Sender<Vec<Hold>>,
    pub(crate) returned: mpsc::Sender<Returned>,
    /// Topics that turned out to be missing.
    pub(crate) wanted: mpsc::Sender<String>,
}

pub(crate) struct Sender {
    pub(crate) partition: Partition,
    pub(crate) writer: PartitionWriter,
    pub(crate) queue: mpsc::Receiver<Dispatched>,
    pub(crate) probes: mpsc::Receiver<Probe>,
    pub(crate) leases: Leases,
    pub(crate) outlets: Outlets,
    pub(crate) partitions: Partitions,
    /// Cancelled: finish the request that is out, drop the rest.
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
}

impl Sender {
    /// Sends until the relay is gone.
    pub(crate) async fn run(self) {
        let mut work = Work {
            waiting: VecDeque::new(),
            poison: Poison::default(),
            max_bytes: chunk::MAX_REQUEST_BYTES,
            max_events: usize::MAX,
            sender: self,
        };
        work.run().await;
    }

    fn name(&self) -> String {
        format!("{}/{}", self.partition.0, self.partition.1)
    }

    fn is_set_aside(&self) -> bool {
        self.partitions.state(&self.partition) == Some(State::SetAside)
    }

    fn owns(&self, slot: Slot, epoch: i64) -> bool {
        !self.stop.is_cancelled() && self.leases.epoch(slot.number().into()) == Some(epoch)
    }

    async fn give_back(&self, slots: impl Iterator<Item = Slot>) {
        // The relay being gone, nobody counts any more.
        let _ = self.outlets.returned.send(Returned::slots(slots)).await;
    }

    async fn hold(&self, holds: Vec<Hold>) {
        if !holds.is_empty() {
            // The holder outlives the senders; it is gone only when the process is going.
            let _ = self.outlets.holds.send(holds).await;
        }
    }

    /// One produce request, timed.
    async fn produce<'a>(
        &mut self,
        events: impl Iterator<Item = &'a OutboxEvent>,
    ) -> Result<i64, KafkaError> {
        let records = events.map(envelope::encode).collect();
        let started = Instant::now();
        let produced = self.writer.produce(records).await;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.produce_seconds.observe(seconds);
        produced
    }

    /// Sends unavailable events once. Success tells, once it is settled, that the partition is back;
    /// so does a refusal of the records themselves, since a partition that judges them works.
    async fn probe(&mut self, probe: Probe) {
        if self.owns(probe.slot, probe.epoch) {
            match self
                .produce(probe.events.iter().map(|(_, event)| event))
                .await
            {
                Ok(first_offset) => {
                    let ids = probe.events.iter().map(|(id, _)| *id);
                    let acknowledged = Acknowledged::Unavailable {
                        partition: self.partition.clone(),
                        events: ids.zip(first_offset..).collect(),
                    };
                    let _ = self.outlets.acknowledged.send(acknowledged).await;
                    self.health.failing.clear(self.name());
                    return;
                }
                Err(error) if error.failure() == Failure::Impossible => {
                    self.partitions.accepted(&self.partition);
                }
                Err(error) => self.health.failing.report(self.name(), error),
            }
        }
        self.partitions.end_probe(&self.partition);
    }
}

/// A sender at work.
struct Work {
    sender: Sender,
    waiting: VecDeque<Dispatched>,
    poison: Poison,
    /// What the topic takes in one request; learned from its refusals.
    max_bytes: usize,
    /// Lowered while the record that cannot be stored is searched for.
    max_events: usize,
}

impl Work {
    async fn run(&mut self) {
        loop {
            if self.waiting.is_empty() {
                tokio::select! {
                    event = self.sender.queue.recv() => match event {
                        Some(event) => self.waiting.push_back(event),
                        None => return,
                    },
                    Some(probe) = self.sender.probes.recv() => {
                        self.sender.probe(probe).await;
                        continue;
                    }
                }
            }
            while let Ok(event) = self.sender.queue.try_recv() {
                self.waiting.push_back(event);
            }
            self.park_what_follows_poison().await;
            if self.sender.is_set_aside() {
                self.hold_all(Vec::new(), "its partition was set aside")
                    .await;
                continue;
            }
            let sizes = self
                .waiting
                .iter()
                .take(self.max_events)
                .map(|d| envelope::encoded_size(&d.event));
            let count = chunk::take(sizes, self.max_bytes);
            let chunk = self.waiting.drain(..count).collect();
            self.deliver(chunk).await;
        }
    }

    /// Sends one chunk until Kafka has it, or nothing of it is ours to send any more.
    async fn deliver(&mut self, mut chunk: Vec<Dispatched>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        let mut logged: Option<Instant> = None;
        let mut attempts = 0;
        loop {
            self.drop_what_is_not_ours(&mut chunk).await;
            if chunk.is_empty() {
                self.sender.health.failing.clear(self.sender.name());
                return;
            }
            attempts += 1;
            let produced = self.sender.produce(chunk.iter().map(|d| &d.event)).await;
            let error = match produced {
                Ok(first_offset) => return self.acknowledge(chunk, first_offset).await,
                Err(error) => error,
            };
            match error.failure() {
                Failure::Impossible => return self.impossible(chunk, &error, attempts).await,
                Failure::Transient | Failure::Configuration | Failure::OutOfRange => {
                    self.report(&error, chunk.len(), &mut logged);
                }
            }
            if self.sender.partitions.failed(&self.sender.partition) {
                return self.hold_all(chunk, &error.to_string()).await;
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            self.sender.stop.run_until_cancelled(pause).await;
        }
    }

    async fn drop_what_is_not_ours(&self, chunk: &mut Vec<Dispatched>) {
        let dropped: Vec<Slot> = chunk
            .extract_if(.., |d| !self.sender.owns(d.slot, d.epoch))
            .map(|d| d.slot)
            .collect();
        if !dropped.is_empty() {
            self.sender.give_back(dropped.into_iter()).await;
        }
    }

    async fn acknowledge(&mut self, chunk: Vec<Dispatched>, first_offset: i64) {
        let partition = self.sender.partition.1;
        let settled = (first_offset..)
            .zip(&chunk)
            .map(|(offset, d)| Settled {
                slot: d.slot,
                id: d.id,
                version: d.version,
                partition,
                offset,
            })
            .collect();
        self.max_events = self.max_events.saturating_mul(2);
        self.sender.partitions.accepted(&self.sender.partition);
        self.sender.health.failing.clear(self.sender.name());
        // The settler outlives the senders; it is gone only when the process is going.
        let pending = Acknowledged::Pending(settled);
        let _ = self.sender.outlets.acknowledged.send(pending).await;
    }

    /// Kafka refused the request for what is in it: halves it until the guilty record is alone.
    async fn impossible(&mut self, chunk: Vec<Dispatched>, error: &KafkaError, attempts: i32) {
        // It answered, so it works.
        self.sender.partitions.accepted(&self.sender.partition);
        if chunk.len() > 1 {
            let bytes: usize = chunk.iter().map(|d| envelope::encoded_size(&d.event)).sum();
            self.max_events = chunk.len().div_ceil(2);
            if error.is_too_large() {
                self.max_bytes = self.max_bytes.min(bytes / 2);
            }
            for dispatched in chunk.into_iter().rev() {
                self.waiting.push_front(dispatched);
            }
            return;
        }
        self.max_events = usize::MAX;
        for guilty in chunk {
            let (topic, key, id) = (&guilty.event.topic, &guilty.event.key, guilty.id);
            error!(topic, key, id, %error, "dead letter: the event can never be produced");
            self.poison.add(&guilty);
            let hold = guilty.to_hold(HoldCause::Dead, Some(error.to_string()), attempts);
            self.sender.hold(vec![hold]).await;
        }
    }

    /// Events of the same batch that come after a dead one of their key: later batches learn of it
    /// from the table.
    async fn park_what_follows_poison(&mut self) {
        if self.poison.is_empty() {
            return;
        }
        let mut parked = Vec::new();
        self.waiting.retain(|d| {
            let follows = self.poison.is_followed_by(d);
            if follows {
                parked.push(d.to_hold(HoldCause::Parked, None, 0));
            }
            !follows
        });
        self.sender.hold(parked).await;
    }

    /// The partition is set aside: so is all that was on its way there.
    async fn hold_all(&mut self, mut chunk: Vec<Dispatched>, reason: &str) {
        chunk.extend(self.waiting.drain(..));
        let events = chunk.len();
        if events > 0 && reason != "its partition was set aside" {
            let (topic, partition) = (&self.sender.partition.0, self.sender.partition.1);
            warn!(
                topic,
                partition, events, reason, "partition set aside; others go on"
            );
        }
        let holds = chunk
            .iter()
            .map(|d| d.to_hold(HoldCause::Unavailable, Some(reason.to_owned()), 0))
            .collect();
        self.sender.hold(holds).await;
    }

    fn report(&self, error: &KafkaError, events: usize, logged: &mut Option<Instant>) {
        let sender = &self.sender;
        sender.metrics.produce_failures.inc();
        if error.outcome_is_unknown() {
            let resent = u64::try_from(events).unwrap_or(u64::MAX);
            sender.metrics.resent_after_unknown_outcome.inc_by(resent);
        }
        sender.health.failing.report(sender.name(), error);
        let (topic, partition) = (&sender.partition.0, sender.partition.1);
        if error.is_unknown_topic() {
            // Full: topics are being looked up already.
            let _ = sender.outlets.wanted.try_send(topic.clone());
        }
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            let needs_action = error.failure() == Failure::Configuration;
            warn!(topic, partition, events, %error, needs_action, "cannot produce; trying again");
        }
    }
}
