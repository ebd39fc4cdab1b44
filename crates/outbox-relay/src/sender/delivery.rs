//! A sender's loop: one request in flight, retried until Kafka has it or the circuit opens.
//!
//! What it holds it sends in order, hands to the holder, or drops. An event whose tenure has ended is
//! dropped, and with it every later one of that slot, so that what is missing of a slot is always
//! its end. One that can never be produced is found by halving, and holds back its key alone.

use std::collections::VecDeque;
use std::time::Duration;

use domain::Slot;
use messaging::{ErrorKind, KafkaError, PRODUCE_DEADLINE, envelope};
use service::retry::bounds;
use service::{Backoff, LogThrottle};
use storage::outbox::{HoldCause, Settled};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::event::{Dispatched, PATIENCE};
use crate::oversized;
use crate::sender::batch_size;
use crate::sender::blocked_keys::BlockedKeys;
use crate::sender::diverted::Diverted;
use crate::sender::requests::{Sender, Tested};
use crate::trace;
use crate::unavailable::circuits::Permission;

/// Sends what the sender is given, until the relay is gone.
pub(crate) async fn run(sender: Sender) {
    let (failing, name) = (sender.health.failing.clone(), sender.name());
    Delivery::new(sender).run().await;
    // Whatever its latest request met.
    failing.clear(name);
}

/// A sender at work.
struct Delivery {
    sender: Sender,
    name: String,
    waiting: VecDeque<Dispatched>,
    blocked_keys: BlockedKeys,
    diverted: Diverted,
    /// When the first request was sent of those that failed, since one succeeded or nothing was in
    /// hand.
    failing_since: Option<Instant>,
    /// The readiness endpoint was told of a failure.
    reported: bool,
    log_throttle: LogThrottle,
    /// The test that is out, and earlier ones that were given up and may still be answered.
    tests: JoinSet<Tested>,
    /// What the topic takes in one request; learned from its refusals.
    max_bytes: usize,
    /// Lowered while the record that cannot be stored is searched for.
    max_events: usize,
}

impl Delivery {
    fn new(sender: Sender) -> Self {
        Self {
            name: sender.name(),
            sender,
            waiting: VecDeque::new(),
            blocked_keys: BlockedKeys::default(),
            diverted: Diverted::default(),
            failing_since: None,
            reported: false,
            log_throttle: LogThrottle::default(),
            tests: JoinSet::new(),
            max_bytes: batch_size::MAX_REQUEST_BYTES,
            max_events: usize::MAX,
        }
    }

    async fn run(&mut self) {
        loop {
            if self.waiting.is_empty() {
                self.failing_since = None;
                if !self.sender.circuits.is_open(&self.sender.partition) {
                    self.clear_report();
                }
                tokio::select! {
                    event = self.sender.queue.recv() => match event {
                        Some(event) => self.waiting.push_back(event),
                        None => return,
                    },
                    Some(late) = self.tests.join_next() => {
                        self.answered_late(late);
                        continue;
                    }
                    () = self.sender.writer.close_when_idle() => continue,
                }
            }
            while let Ok(event) = self.sender.queue.try_recv() {
                self.waiting.push_back(event);
            }
            self.drop_void(&mut Vec::new()).await;
            self.hold_oversized().await;
            self.hold_blocked().await;
            self.hold_what_follows_diverted().await;
            if self.waiting.is_empty() {
                continue;
            }
            match self.permission() {
                Permission::Send => {
                    let chunk = self.next_chunk();
                    self.deliver(chunk).await;
                }
                Permission::Test(deadline) => self.test(deadline).await,
                Permission::Hold => {
                    self.hold_all(Vec::new(), "its partition cannot be written")
                        .await;
                }
            }
        }
    }

    fn permission(&self) -> Permission {
        let Sender {
            circuits,
            partition,
            ..
        } = &self.sender;
        circuits.permission(partition, Instant::now())
    }

    fn next_chunk(&mut self) -> Vec<Dispatched> {
        let sizes = self
            .waiting
            .iter()
            .take(self.max_events)
            .map(|d| envelope::encoded_size(&d.event));
        let count = batch_size::take(sizes, self.max_bytes);
        self.waiting.drain(..count).collect()
    }

    /// Sends one chunk until Kafka has it, the circuit opens, or nothing of it is ours to send any
    /// more.
    async fn deliver(&mut self, mut chunk: Vec<Dispatched>) {
        let mut backoff = Backoff::new(bounds::REQUEST);
        let mut attempts = 0;
        let begun = Instant::now();
        loop {
            self.drop_void(&mut chunk).await;
            if chunk.is_empty() {
                return;
            }
            attempts += 1;
            let sent = Instant::now();
            let produced = self.sender.produce(chunk.iter().map(|d| &d.event)).await;
            let error = match produced {
                Ok(first_offset) => return self.acknowledge(chunk, first_offset, begun).await,
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Impossible => return self.impossible(chunk, &error, attempts).await,
                ErrorKind::Transient | ErrorKind::Configuration | ErrorKind::OutOfRange => {}
            }
            let lasts = self.failing_since.get_or_insert(sent).elapsed() >= PATIENCE;
            self.count(&error, chunk.len());
            // A topic that was just made, or a leader that just moved, is no trouble for a moment.
            if lasts || !error.is_about_the_leader() {
                self.report(&error, chunk.len(), "cannot produce; trying again");
            }
            if self.sender.stop.is_cancelled() {
                continue;
            }
            if lasts {
                let events = chunk.len() + self.waiting.len();
                let (topic, partition) = &self.sender.partition;
                self.sender
                    .circuits
                    .open(&self.sender.partition, Instant::now());
                warn!(
                    topic,
                    partition, events, %error, "circuit open: the partition's events are held"
                );
                return self.hold_all(chunk, &error.to_string()).await;
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            self.sender.stop.run_until_cancelled(pause).await;
        }
    }

    /// Half-open: one request, which has until `deadline`. All else is held at once, also what comes
    /// meanwhile, so that no slot waits for the answer. One that comes later still counts.
    async fn test(&mut self, deadline: Duration) {
        let chunk = self.next_chunk();
        let begun = Instant::now();
        let request = self.sender.separate_request(&chunk);
        let test = self.tests.spawn(request).id();
        let stop = self.sender.stop.clone();
        let mut too_late = std::pin::pin!(async {
            tokio::select! {
                () = tokio::time::sleep(deadline) => {}
                () = stop.cancelled() => {}
            }
        });
        let outcome = loop {
            self.hold_all(Vec::new(), "its partition cannot be written")
                .await;
            tokio::select! {
                Some(answered) = self.tests.join_next_with_id() => match answered {
                    Ok((id, tested)) if id == test => {
                        self.sender.writer = tested.writer;
                        break tested.outcome;
                    }
                    answered => self.answered_late(answered.map(|(_, tested)| tested)),
                },
                () = &mut too_late => break Err(KafkaError::Deadline(deadline)),
                Some(event) = self.sender.queue.recv() => self.waiting.push_back(event),
            }
        };
        match outcome {
            Ok(first_offset) => {
                info!(partition = self.name, "circuit closed: the partition works");
                self.acknowledge(chunk, first_offset, begun).await;
            }
            Err(error) if error.kind() == ErrorKind::Impossible => {
                self.impossible(chunk, &error, 1).await;
            }
            Err(error) => {
                self.count(&error, chunk.len());
                self.report(&error, chunk.len(), "the circuit stays open; trying again");
                let Sender {
                    circuits,
                    partition,
                    ..
                } = &self.sender;
                circuits.test_failed(partition, PRODUCE_DEADLINE);
                let mut chunk = chunk;
                self.drop_void(&mut chunk).await;
                self.hold_all(chunk, &error.to_string()).await;
            }
        }
    }

    /// A test that was given up has an answer: the partition works, if it says so. Its events are held
    /// and go out again.
    fn answered_late(&mut self, late: Result<Tested, JoinError>) {
        match late {
            Ok(tested) => {
                if tested.outcome.is_ok() {
                    self.works();
                }
            }
            Err(died) => {
                if let Ok(panic) = died.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    /// Drops what was read under a tenure that has ended, of the chunk in hand and of all that waits.
    async fn drop_void(&mut self, chunk: &mut Vec<Dispatched>) {
        let owned = self.sender.owned();
        let mut dropped: Vec<Slot> = Vec::new();
        let mut is_ours = |d: &Dispatched| {
            let ours = owned.get(&d.slot.number().into()) == Some(&d.epoch);
            if !ours {
                dropped.push(d.slot);
            }
            ours
        };
        chunk.retain(&mut is_ours);
        self.waiting.retain(&mut is_ours);
        if !dropped.is_empty() {
            self.sender.give_back(dropped.into_iter()).await;
        }
    }

    async fn acknowledge(&mut self, chunk: Vec<Dispatched>, first_offset: i64, begun: Instant) {
        let partition = self.sender.partition.1;
        if self.sender.tracer.is_on() {
            let events = chunk.iter().map(|d| &d.event);
            trace::sent(&self.sender.tracer, partition, begun, first_offset, events);
        }
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
        self.works();
        // The settler outlives the senders; it is gone only when the process is going.
        let _ = self.sender.channels.acknowledged.send(settled).await;
    }

    /// The partition answered.
    fn works(&mut self) {
        let Sender {
            circuits,
            partition,
            ..
        } = &self.sender;
        circuits.close(partition, Instant::now());
        self.failing_since = None;
        self.clear_report();
    }

    fn clear_report(&mut self) {
        if std::mem::take(&mut self.reported) {
            self.sender.health.failing.clear(&self.name);
            self.log_throttle.end();
        }
    }

    /// Kafka refused the request for what is in it: halves it until the guilty record is alone.
    async fn impossible(&mut self, chunk: Vec<Dispatched>, error: &KafkaError, attempts: i32) {
        // It answered, so it works.
        self.works();
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
            self.move_to_dead(&guilty, error.to_string(), attempts)
                .await;
        }
    }

    async fn move_to_dead(&mut self, guilty: &Dispatched, error: String, attempts: i32) {
        let (topic, key, id) = (&guilty.event.topic, &guilty.event.key, guilty.id);
        let trace_id = trace::trace_id(&guilty.event);
        error!(
            topic,
            key, id, error, trace_id, "dead letter: the event can never be produced"
        );
        self.blocked_keys.add(guilty);
        let hold = guilty.to_hold(HoldCause::Dead, Some(error), attempts);
        self.sender.hold(vec![hold]).await;
    }

    /// What no broker would even read, but was small enough to be read here.
    async fn hold_oversized(&mut self) {
        let is_oversized = |d: &mut Dispatched| oversized::is_oversized(&d.event);
        while let Some(event) = self.waiting.pop_front_if(is_oversized) {
            let error = oversized::reason(envelope::encoded_size(&event.event));
            self.move_to_dead(&event, error, 0).await;
        }
    }

    /// Events of the same batch that come after a dead one of their key: later batches learn of it
    /// from the table.
    async fn hold_blocked(&mut self) {
        if self.blocked_keys.is_empty() {
            return;
        }
        let mut blocked = Vec::new();
        self.waiting.retain(|d| {
            let follows = self.blocked_keys.is_followed_by(d);
            if follows {
                blocked.push(d.to_hold(HoldCause::Blocked, None, 0));
            }
            !follows
        });
        self.sender.hold(blocked).await;
    }

    /// Events of the same batch that come after one that was moved to held as unavailable.
    async fn hold_what_follows_diverted(&mut self) {
        if self.diverted.is_empty() {
            return;
        }
        let reason = "an earlier event of its partition is held";
        let mut held = Vec::new();
        self.waiting.retain(|d| {
            let follows = self.diverted.is_followed_by(d);
            if follows {
                held.push(d.to_hold(HoldCause::Unavailable, Some(reason.to_owned()), 0));
            }
            !follows
        });
        self.sender.hold(held).await;
    }

    /// Holds all that was on its way to the partition, of which `chunk` comes first.
    async fn hold_all(&mut self, mut chunk: Vec<Dispatched>, reason: &str) {
        chunk.extend(self.waiting.drain(..));
        for event in &chunk {
            self.diverted.add(event);
        }
        let holds = chunk
            .iter()
            .map(|d| d.to_hold(HoldCause::Unavailable, Some(reason.to_owned()), 0))
            .collect();
        self.sender.hold(holds).await;
    }

    fn count(&self, error: &KafkaError, events: usize) {
        let sender = &self.sender;
        sender.metrics.retried.inc();
        if error.outcome_is_unknown() {
            let resent = u64::try_from(events).unwrap_or(u64::MAX);
            sender.metrics.resent_after_unknown_outcome.inc_by(resent);
        }
        if error.is_unknown_topic() {
            // Full: topics are being looked up already.
            let _ = sender.channels.wanted.try_send(sender.partition.0.clone());
        }
    }

    fn report(&mut self, error: &KafkaError, events: usize, consequence: &'static str) {
        let sender = &self.sender;
        self.reported = true;
        sender.health.failing.report(&self.name, error);
        let (topic, partition) = (&sender.partition.0, sender.partition.1);
        if self.log_throttle.is_due(Instant::now()) {
            let needs_action = error.kind() == ErrorKind::Configuration;
            warn!(topic, partition, events, %error, needs_action, "{consequence}");
        }
    }
}
