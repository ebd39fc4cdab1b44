//! The relay's loop: reads idle slots, routes what it finds, takes back what was settled.
//!
//! [`Relay::step`] is one turn of it and never waits for Kafka.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Slot;
use messaging::{Cluster, PartitionWriter};
use service::{Backoff, CancellationToken, Check, Readiness};
use storage::lease::{Leases, Tenure};
use storage::outbox::{Batch, BatchLimits, PendingEvent, Settled, read_pending};
use storage::{Connection, Database, Session, StorageError, within};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tracing::{error, warn};

use crate::health::Health;
use crate::metrics::Metrics;
use crate::pacing::Pacing;
use crate::routes::{Routes, Topics, route};
use crate::sender::{Dispatched, Sender};
use crate::settler::Settler;
use crate::slots::Slots;

const READ_DEADLINE: Duration = Duration::from_secs(10);
/// How long a stop waits for requests that are out.
const FINISH_DEADLINE: Duration = Duration::from_secs(6);

/// What one [`Relay::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read events and handed this many (at least one) to their senders.
    Dispatched(usize),
    /// Read, and found nothing to send.
    Idle,
    /// Every slot it may read has events in flight.
    Busy,
    /// It owns no slot.
    NothingOwned,
}

/// Why a relay cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("a task of the pipeline died: {0}")]
    TaskDied(#[from] JoinError),
}

/// Events that are in flight no more, by slot.
#[derive(Debug)]
pub(crate) struct Returned(Vec<(Slot, usize)>);

impl Returned {
    pub(crate) fn of(settled: &[Settled]) -> Self {
        Self::slots(settled.iter().map(|event| event.slot))
    }

    pub(crate) fn slots(slots: impl Iterator<Item = Slot>) -> Self {
        let mut counts = HashMap::new();
        for slot in slots {
            *counts.entry(slot).or_insert(0) += 1;
        }
        Self(counts.into_iter().collect())
    }
}

/// What a relay is made of.
pub(crate) struct Wiring {
    pub(crate) database: Database,
    pub(crate) session: Session,
    pub(crate) cluster: Cluster,
    pub(crate) limits: BatchLimits,
    pub(crate) leases: Leases,
    pub(crate) routes: Routes,
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) health: Health,
}

/// See the module.
pub struct Relay {
    wiring: Wiring,
    postgres: Check,
    connection: Option<Connection>,
    topics: Topics,
    slots: Slots,
    senders: HashMap<String, HashMap<i32, mpsc::Sender<Dispatched>>>,
    tasks: JoinSet<()>,
    stop_senders: CancellationToken,
    acknowledged: mpsc::Sender<Vec<Settled>>,
    returned_sender: mpsc::Sender<Returned>,
    returned: mpsc::Receiver<Returned>,
}

impl Relay {
    /// Starts the settler; senders follow as partitions are met. End it with [`Relay::finish`].
    pub(crate) fn start(wiring: Wiring) -> Self {
        let (acknowledged, acknowledged_receiver) = mpsc::channel(64);
        let (returned_sender, returned) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let settler = Settler {
            database: wiring.database.clone(),
            session: wiring.session.clone(),
            acknowledged: acknowledged_receiver,
            returned: returned_sender.clone(),
            metrics: wiring.metrics.clone(),
            health: wiring.health.clone(),
        };
        tasks.spawn(settler.run());
        Self {
            postgres: wiring.readiness.check("postgres"),
            wiring,
            connection: None,
            topics: Topics::default(),
            slots: Slots::new(),
            senders: HashMap::new(),
            tasks,
            stop_senders: CancellationToken::new(),
            acknowledged,
            returned_sender,
            returned,
        }
    }

    /// Runs until `stop`, then finishes what is in flight.
    ///
    /// # Errors
    /// When a task of the pipeline died. An outage of Postgres or Kafka is waited out.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RelayError> {
        let mut pacing = Pacing::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while !stop.is_cancelled() {
            let started = Instant::now();
            let pause = match self.step().await {
                Ok(done) => {
                    self.postgres.ready();
                    backoff.reset();
                    match done {
                        Step::Dispatched(_) => {
                            pacing.found();
                            pacing.found_nothing(Duration::ZERO)
                        }
                        Step::Idle => pacing.found_nothing(started.elapsed()),
                        // Something else than time ends these; the pause is for the health check.
                        Step::Busy | Step::NothingOwned => Duration::from_secs(1),
                    }
                }
                Err(error) => {
                    if self.postgres.is_ready() {
                        warn!(%error, "cannot read the outbox; trying again");
                    }
                    self.postgres.not_ready(error);
                    self.connection = None;
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.wiring.wake.notified() => {
                    self.wiring.metrics.wake_ups.inc();
                }
                () = self.wiring.leases.changed() => {}
                Some(returned) = self.returned.recv() => self.take_back(&returned),
                Some(ended) = self.tasks.join_next() => ended?,
            }
        }
        self.finish().await;
        Ok(())
    }

    /// One turn: takes back what was settled, hands over slots that others are due, reads all idle
    /// slots and hands what it found to the senders.
    ///
    /// # Errors
    /// When Postgres cannot be read; nothing is lost, the connection is made anew by the next step.
    pub async fn step(&mut self) -> Result<Step, StorageError> {
        while let Ok(returned) = self.returned.try_recv() {
            self.take_back(&returned);
        }
        let owned: HashMap<Slot, Tenure> = self
            .wiring
            .leases
            .ownership()
            .units()
            .filter_map(|(unit, tenure)| Some((Slot::try_from(unit).ok()?, tenure)))
            .collect();
        self.hand_over(&owned).await;
        self.observe(owned.len());
        if owned.is_empty() {
            return Ok(Step::NothingOwned);
        }
        // A key's partition follows from the count: what went out under the old one ends first.
        if *self.wiring.routes.topics.borrow() != self.topics {
            if self.slots.total() > 0 {
                return Ok(Step::Busy);
            }
            self.topics = Topics::clone(&self.wiring.routes.topics.borrow_and_update());
        }
        let mut idle: Vec<Slot> = owned
            .iter()
            .filter(|(slot, tenure)| !tenure.leaving && self.slots.is_idle(**slot))
            .map(|(slot, _)| *slot)
            .collect();
        if idle.is_empty() {
            return Ok(Step::Busy);
        }
        idle.sort_unstable();
        let started = Instant::now();
        let batch = self.read(&idle).await?;
        let seconds = started.elapsed().as_secs_f64();
        self.wiring.metrics.read_seconds.observe(seconds);
        for (slot, id) in &batch.orphans {
            self.wiring.metrics.orphans.inc();
            let slot = slot.number();
            error!(
                slot,
                id, "outbox_pending names an event that does not exist"
            );
        }
        let dispatched = self.dispatch(batch.events, &owned);
        self.observe(owned.len());
        Ok(match dispatched {
            0 => Step::Idle,
            events => Step::Dispatched(events),
        })
    }

    async fn read(&mut self, slots: &[Slot]) -> Result<Batch, StorageError> {
        let wiring = &self.wiring;
        // Taken out: a read that fails or is dropped must not leave its connection behind.
        let mut conn = match self.connection.take() {
            Some(conn) => conn,
            None => wiring.database.connect(&wiring.session).await?,
        };
        let batch = within(READ_DEADLINE, read_pending(&mut conn, slots, wiring.limits)).await?;
        self.connection = Some(conn);
        Ok(batch)
    }

    /// What cannot be routed or must follow a held event stays pending, and with it all of its key.
    fn dispatch(&mut self, events: Vec<PendingEvent>, owned: &HashMap<Slot, Tenure>) -> usize {
        let mut dispatched = 0;
        for pending in events {
            if pending.parked.is_some() {
                continue;
            }
            let event = &pending.event;
            let Some(partition) = route(&self.topics, &event.topic, &event.key) else {
                // Full: it has topics to look up already, and events stay until it has.
                let _ = self.wiring.routes.wanted.try_send(event.topic.clone());
                continue;
            };
            let slot = pending.slot;
            let sender = self.sender(&event.topic, partition);
            let sent = sender.try_send(Dispatched {
                slot,
                epoch: owned[&slot].epoch,
                id: pending.id,
                version: pending.version,
                event: pending.event,
            });
            // A queue has room for all that can be in flight: it is closed only when its sender
            // died, which ends the process.
            if sent.is_ok() {
                self.slots.dispatched(slot, 1);
                dispatched += 1;
            }
        }
        dispatched
    }

    fn sender(&mut self, topic: &str, partition: i32) -> &mpsc::Sender<Dispatched> {
        if !self.senders.contains_key(topic) {
            self.senders.insert(topic.to_owned(), HashMap::new());
        }
        let partitions = self.senders.get_mut(topic).expect("inserted above");
        partitions.entry(partition).or_insert_with(|| {
            let per_slot = usize::try_from(self.wiring.limits.events).unwrap_or(usize::MAX);
            let slots = usize::try_from(Slot::COUNT).expect("there are slots");
            let (queue, receiver) = mpsc::channel(per_slot.saturating_mul(slots));
            let sender = Sender {
                topic: topic.to_owned(),
                partition,
                writer: PartitionWriter::new(self.wiring.cluster.clone(), topic, partition),
                queue: receiver,
                leases: self.wiring.leases.clone(),
                acknowledged: self.acknowledged.clone(),
                returned: self.returned_sender.clone(),
                stop: self.stop_senders.clone(),
                metrics: self.wiring.metrics.clone(),
                health: self.wiring.health.clone(),
            };
            self.tasks.spawn(sender.run());
            queue
        })
    }

    fn take_back(&mut self, returned: &Returned) {
        for (slot, events) in &returned.0 {
            self.slots.returned(*slot, *events);
        }
    }

    async fn hand_over(&self, owned: &HashMap<Slot, Tenure>) {
        for (slot, tenure) in owned {
            if tenure.leaving && self.slots.is_idle(*slot) {
                self.wiring.leases.release(slot.number().into()).await;
            }
        }
    }

    fn observe(&self, owned: usize) {
        let in_flight = self.slots.total();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.wiring.metrics.slots_owned.set(count(owned));
        self.wiring.metrics.in_flight.set(count(in_flight));
        if in_flight == 0 {
            self.wiring.health.progressed();
        } else {
            self.wiring.health.check_progress(in_flight);
        }
    }

    /// Lets requests that are out end and records them; what was not sent yet stays pending.
    pub async fn finish(mut self) {
        self.stop_senders.cancel();
        let drained = tokio::time::timeout(FINISH_DEADLINE, async {
            while self.slots.total() > 0 {
                match self.returned.recv().await {
                    Some(returned) => self.take_back(&returned),
                    None => break,
                }
            }
        });
        if drained.await.is_err() {
            let events = self.slots.total();
            warn!(
                events,
                "stopping with requests unanswered; their events may be sent again"
            );
        }
        self.tasks.shutdown().await;
    }
}
