//! Produces to one partition: one request in flight, retried until Kafka has it.
//!
//! What it holds it sends in order or drops: an event whose slot was lost is dropped, and with it
//! every later one of that slot, so that what is missing of a slot is always its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::{OutboxEvent, Slot};
use messaging::{Failure, KafkaError, PartitionWriter, envelope};
use service::{Backoff, CancellationToken};
use storage::lease::Leases;
use storage::outbox::{RowVersion, Settled};
use tokio::sync::mpsc;
use tracing::warn;

use crate::chunk;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::relay::Returned;

/// Time between two log lines about the same failing partition.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// An event on its way.
#[derive(Debug)]
pub(crate) struct Dispatched {
    pub(crate) slot: Slot,
    /// The epoch its slot was owned under when it was read.
    pub(crate) epoch: i64,
    pub(crate) id: i64,
    pub(crate) version: RowVersion,
    pub(crate) event: OutboxEvent,
}

pub(crate) struct Sender {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) writer: PartitionWriter,
    pub(crate) queue: mpsc::Receiver<Dispatched>,
    pub(crate) leases: Leases,
    pub(crate) acknowledged: mpsc::Sender<Vec<Settled>>,
    pub(crate) returned: mpsc::Sender<Returned>,
    /// Cancelled: finish the request that is out, drop the rest.
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
}

impl Sender {
    /// Sends until the relay is gone.
    pub(crate) async fn run(mut self) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match self.queue.recv().await {
                    Some(event) => waiting.push_back(event),
                    None => return,
                }
            }
            while let Ok(event) = self.queue.try_recv() {
                waiting.push_back(event);
            }
            let sizes = waiting.iter().map(|d| envelope::encoded_size(&d.event));
            let count = chunk::take(sizes, chunk::MAX_REQUEST_BYTES);
            self.deliver(waiting.drain(..count).collect()).await;
        }
    }

    /// Sends one chunk until Kafka has it, or nothing of it is ours to send any more.
    async fn deliver(&mut self, mut chunk: Vec<Dispatched>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut logged: Option<Instant> = None;
        loop {
            self.drop_what_is_not_ours(&mut chunk).await;
            if chunk.is_empty() {
                break;
            }
            let records = chunk.iter().map(|d| envelope::encode(&d.event)).collect();
            let started = Instant::now();
            let produced = self.writer.produce(records).await;
            let seconds = started.elapsed().as_secs_f64();
            self.metrics.produce_seconds.observe(seconds);
            match produced {
                Ok(first_offset) => {
                    self.acknowledge(&chunk, first_offset).await;
                    break;
                }
                Err(error) => {
                    self.report(&error, chunk.len(), &mut logged);
                    let pause = tokio::time::sleep(backoff.next_delay());
                    self.stop.run_until_cancelled(pause).await;
                }
            }
        }
        self.health.failing.clear(self.name());
    }

    fn name(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }

    async fn drop_what_is_not_ours(&self, chunk: &mut Vec<Dispatched>) {
        let stopping = self.stop.is_cancelled();
        let dropped: Vec<Dispatched> = chunk
            .extract_if(.., |d| {
                stopping || self.leases.epoch(d.slot.number().into()) != Some(d.epoch)
            })
            .collect();
        if !dropped.is_empty() {
            let returned = Returned::slots(dropped.iter().map(|d| d.slot));
            // The relay being gone, nobody counts any more.
            let _ = self.returned.send(returned).await;
        }
    }

    async fn acknowledge(&self, chunk: &[Dispatched], first_offset: i64) {
        let settled = (first_offset..)
            .zip(chunk)
            .map(|(offset, d)| Settled {
                slot: d.slot,
                id: d.id,
                version: d.version,
                partition: self.partition,
                offset,
            })
            .collect();
        // The settler outlives the senders; it is gone only when the process is going.
        let _ = self.acknowledged.send(settled).await;
    }

    fn report(&self, error: &KafkaError, events: usize, logged: &mut Option<Instant>) {
        self.metrics.produce_failures.inc();
        self.health.failing.report(self.name(), error);
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            let (topic, partition) = (&self.topic, self.partition);
            let needs_action = match error.failure() {
                Failure::Transient => false,
                Failure::Configuration | Failure::Impossible | Failure::OutOfRange => true,
            };
            warn!(topic, partition, events, %error, needs_action, "cannot produce; trying again");
        }
    }
}
