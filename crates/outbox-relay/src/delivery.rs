//! A sender's loop: one request in flight, retried until Kafka has it.
//!
//! What it holds it sends in order, hands to the holder, or drops. An event whose slot was lost is
//! dropped, and with it every later one of that slot, so that what is missing of a slot is always
//! its end. One that can never be produced is found by halving, and holds back its key alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::Slot;
use messaging::{Failure, KafkaError, envelope};
use service::{Backoff, Reminder};
use storage::outbox::{HoldCause, Settled};
use tracing::{error, warn};

use crate::poison::Poison;
use crate::sender::{Dispatched, Sender};
use crate::settler::Acknowledged;
use crate::trace;
use crate::{chunk, giants};

/// Kafka being back, the next attempt must not be far.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A sender at work.
pub(crate) struct Delivery {
    sender: Sender,
    waiting: VecDeque<Dispatched>,
    poison: Poison,
    /// What the topic takes in one request; learned from its refusals.
    max_bytes: usize,
    /// Lowered while the record that cannot be stored is searched for.
    max_events: usize,
}

impl Delivery {
    pub(crate) fn new(sender: Sender) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
            poison: Poison::default(),
            max_bytes: chunk::MAX_REQUEST_BYTES,
            max_events: usize::MAX,
        }
    }

    /// Sends until the relay is gone.
    pub(crate) async fn run(&mut self) {
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
                    () = self.sender.writer.close_when_idle() => continue,
                }
            }
            while let Ok(event) = self.sender.queue.try_recv() {
                self.waiting.push_back(event);
            }
            self.bury_the_giants().await;
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
        let mut reminder = Reminder::default();
        let mut attempts = 0;
        let begun = Instant::now();
        loop {
            self.drop_what_is_not_ours(&mut chunk).await;
            if chunk.is_empty() {
                self.sender.health.failing.clear(self.sender.name());
                return;
            }
            attempts += 1;
            let produced = self.sender.produce(chunk.iter().map(|d| &d.event)).await;
            let error = match produced {
                Ok(first_offset) => {
                    if self.sender.tracer.is_on() {
                        let (tracer, partition) = (&self.sender.tracer, self.sender.partition.1);
                        let events = chunk.iter().map(|d| &d.event);
                        trace::sent(tracer, partition, begun, first_offset, events);
                    }
                    return self.acknowledge(chunk, first_offset).await;
                }
                Err(error) => error,
            };
            match error.failure() {
                Failure::Impossible => return self.impossible(chunk, &error, attempts).await,
                Failure::Transient | Failure::Configuration | Failure::OutOfRange => {
                    self.report(&error, chunk.len(), &mut reminder);
                }
            }
            if self.sender.stop.is_cancelled() {
                continue;
            }
            if self.sender.partitions.failed(&self.sender.partition) {
                let events = chunk.len() + self.waiting.len();
                let (topic, partition) = (&self.sender.partition.0, self.sender.partition.1);
                warn!(topic, partition, events, %error, "partition set aside; others go on");
                return self.hold_all(chunk, &error.to_string()).await;
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            self.sender.stop.run_until_cancelled(pause).await;
        }
    }

    async fn drop_what_is_not_ours(&self, chunk: &mut Vec<Dispatched>) {
        let owned = self.sender.owned();
        let dropped: Vec<Slot> = chunk
            .extract_if(.., |d| owned.get(&d.slot.number().into()) != Some(&d.epoch))
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
        // Nobody asks how a partition fares whose sender was ended, and nobody would forget it.
        if !self.sender.stop.is_cancelled() {
            self.sender.partitions.accepted(&self.sender.partition);
        }
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
            self.bury(&guilty, error.to_string(), attempts).await;
        }
    }

    async fn bury(&mut self, guilty: &Dispatched, error: String, attempts: i32) {
        let (topic, key, id) = (&guilty.event.topic, &guilty.event.key, guilty.id);
        let trace_id = trace::trace_id(&guilty.event);
        error!(
            topic,
            key, id, error, trace_id, "dead letter: the event can never be produced"
        );
        self.poison.add(guilty);
        let hold = guilty.to_hold(HoldCause::Dead, Some(error), attempts);
        self.sender.hold(vec![hold]).await;
    }

    /// What no broker would even read, but was small enough to be read here.
    async fn bury_the_giants(&mut self) {
        let is_giant = |d: &mut Dispatched| giants::is_giant(&d.event);
        while let Some(giant) = self.waiting.pop_front_if(is_giant) {
            let error = giants::reason(envelope::encoded_size(&giant.event));
            self.bury(&giant, error, 0).await;
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
        let holds = chunk
            .iter()
            .map(|d| d.to_hold(HoldCause::Unavailable, Some(reason.to_owned()), 0))
            .collect();
        self.sender.hold(holds).await;
    }

    fn report(&self, error: &KafkaError, events: usize, reminder: &mut Reminder) {
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
        if reminder.is_due(Instant::now()) {
            let needs_action = error.failure() == Failure::Configuration;
            warn!(topic, partition, events, %error, needs_action, "cannot produce; trying again");
        }
    }
}
