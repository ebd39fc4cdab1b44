//! The relay's loop: reads idle slots, routes what it finds, takes back what was settled.
//!
//! [`Relay::step`] is one turn of it and never waits for Kafka.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Slot;
use messaging::Cluster;
use service::{Backoff, CancellationToken, Check, Readiness};
use storage::lease::{Leases, Tenure};
use storage::outbox::{Batch, BatchLimits, Hold, HoldCause, PendingEvent, Settled, read_pending};
use storage::{Connection, Database, Session, StorageError, within};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tracing::{error, warn};

use crate::health::Health;
use crate::holder::Holder;
use crate::metrics::Metrics;
use crate::pacing::Pacing;
use crate::partitions::Partitions;
use crate::recovery::{Probe, Waiting};
use crate::routes::{Route, Routes, Topics};
use crate::sender::{Dispatched, Outlets};
use crate::senders::{Parts, Senders};
use crate::settler::Settler;
use crate::slots::Slots;
use crate::unroutable::Unroutable;

const READ_DEADLINE: Duration = Duration::from_secs(10);
/// How long a stop waits for requests that are out.
const FINISH_DEADLINE: Duration = Duration::from_secs(6);
/// Longest pause of the loop: stalls are looked for at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    pub(crate) partitions: Partitions,
    pub(crate) waiting: Waiting,
    pub(crate) probes: mpsc::Receiver<Probe>,
}

/// See the module.
pub struct Relay {
    wiring: Wiring,
    postgres: Check,
    connection: Option<Connection>,
    topics: Topics,
    unroutable: Unroutable,
    /// As of the latest step.
    owned: HashMap<Slot, Tenure>,
    slots: Slots,
    batch: u64,
    senders: Senders,
    /// The settler and the holder.
    tasks: JoinSet<()>,
    holds: mpsc::Sender<Vec<Hold>>,
    returned: mpsc::Receiver<Returned>,
}

impl Relay {
    /// Starts the settler and the holder; senders follow as partitions are met. End it with
    /// [`Relay::finish`].
    pub(crate) fn start(wiring: Wiring) -> Self {
        let (acknowledged, acknowledged_receiver) = mpsc::channel(64);
        let (returned_sender, returned) = mpsc::channel(64);
        let (holds, hold_receiver) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let settler = Settler {
            database: wiring.database.clone(),
            session: wiring.session.clone(),
            acknowledged: acknowledged_receiver,
            returned: returned_sender.clone(),
            partitions: wiring.partitions.clone(),
            metrics: wiring.metrics.clone(),
            health: wiring.health.clone(),
        };
        tasks.spawn(settler.run());
        let holder = Holder {
            database: wiring.database.clone(),
            session: wiring.session.clone(),
            member: wiring.leases.member(),
            holds: hold_receiver,
            returned: returned_sender.clone(),
            waiting: wiring.waiting.clone(),
            metrics: wiring.metrics.clone(),
        };
        tasks.spawn(holder.run());
        let senders = Senders::new(Parts {
            cluster: wiring.cluster.clone(),
            leases: wiring.leases.clone(),
            outlets: Outlets {
                acknowledged,
                holds: holds.clone(),
                returned: returned_sender,
                wanted: wiring.routes.wanted.clone(),
            },
            partitions: wiring.partitions.clone(),
            metrics: wiring.metrics.clone(),
            health: wiring.health.clone(),
            events_per_slot: usize::try_from(wiring.limits.events).unwrap_or(usize::MAX),
        });
        Self {
            postgres: wiring.readiness.check("postgres"),
            wiring,
            connection: None,
            topics: Topics::default(),
            unroutable: Unroutable::default(),
            owned: HashMap::new(),
            slots: Slots::new(),
            batch: 0,
            senders,
            tasks,
            holds,
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
                        Step::Busy | Step::NothingOwned => LONGEST_PAUSE,
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
            let wake_ups = self.wiring.metrics.wake_ups.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => { wake_ups.poll.inc(); }
                () = self.wiring.wake.notified() => { wake_ups.notification.inc(); }
                () = self.wiring.leases.changed() => { wake_ups.lease.inc(); }
                Some(returned) = self.returned.recv() => {
                    wake_ups.settled.inc();
                    self.take_back(&returned);
                }
                Some(probe) = self.wiring.probes.recv() => self.senders.probe(probe),
                ended = self.senders.ended() => ended?,
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
        while let Ok(probe) = self.wiring.probes.try_recv() {
            self.senders.probe(probe);
        }
        let owned: HashMap<Slot, Tenure> = self
            .wiring
            .leases
            .ownership()
            .units()
            .filter_map(|(unit, tenure)| Some((Slot::try_from(unit).ok()?, tenure)))
            .collect();
        self.count_losses(&owned);
        self.hand_over(&owned).await;
        self.observe(owned.len());
        if owned.is_empty() {
            return Ok(Step::NothingOwned);
        }
        if !self.adopt_topics() {
            return Ok(Step::Busy);
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

    /// Takes over what is new of the topics. A key's partition follows from the count, so what went
    /// out under the old one ends first: false until it has.
    fn adopt_topics(&mut self) -> bool {
        let news = Topics::clone(&self.wiring.routes.topics.borrow());
        if news == self.topics {
            return true;
        }
        let changed: Vec<String> = self.topics.changed(&news);
        for topic in &changed {
            self.senders.retire(topic);
        }
        if !changed.is_empty() && self.slots.total() > 0 {
            return false;
        }
        self.topics = news;
        true
    }

    /// Hands each event to the sender of its partition, or to the holder. What neither can take
    /// stays pending.
    fn dispatch(&mut self, events: Vec<PendingEvent>, owned: &HashMap<Slot, Tenure>) -> usize {
        self.batch += 1;
        let mut dispatched = 0;
        let mut holds = Vec::new();
        let mut unroutable = HashSet::new();
        for pending in events {
            let (slot, parked) = (pending.slot, pending.parked.is_some());
            let event = Dispatched {
                slot,
                epoch: owned[&slot].epoch,
                batch: self.batch,
                id: pending.id,
                version: pending.version,
                event: pending.event,
            };
            let topic = &event.event.topic;
            if parked {
                holds.push(event.to_hold(HoldCause::Parked, None, 0));
                continue;
            }
            match self.topics.route(topic, &event.event.key) {
                Route::Partition(partition) => {
                    if self.senders.send(partition, event) {
                        self.slots.dispatched(slot, 1);
                        dispatched += 1;
                    }
                }
                Route::Impossible(error) => {
                    let error = Some(error.to_owned());
                    holds.push(event.to_hold(HoldCause::Dead, error, 0));
                }
                Route::Unknown => {
                    unroutable.insert(topic.clone());
                    if self.unroutable.is_due(topic, &self.wiring.partitions) {
                        let error = Some("the topic does not exist".to_owned());
                        holds.push(event.to_hold(HoldCause::Unavailable, error, 0));
                    }
                }
            }
        }
        for topic in &unroutable {
            // Full: it has topics to look up already, and events stay until it has.
            let _ = self.wiring.routes.wanted.try_send(topic.clone());
        }
        self.unroutable
            .seen(&unroutable, &self.wiring.health.failing);
        dispatched + self.hold(holds)
    }

    /// Passes events to the holder; they stay pending when it has more than it can do.
    fn hold(&mut self, holds: Vec<Hold>) -> usize {
        let slots: Vec<Slot> = holds.iter().map(|hold| hold.slot).collect();
        if slots.is_empty() || self.holds.try_send(holds).is_err() {
            return 0;
        }
        for slot in &slots {
            self.slots.dispatched(*slot, 1);
        }
        slots.len()
    }

    fn take_back(&mut self, returned: &Returned) {
        for (slot, events) in &returned.0 {
            self.slots.returned(*slot, *events);
        }
    }

    /// A slot that is gone without having been asked for was lost.
    fn count_losses(&mut self, owned: &HashMap<Slot, Tenure>) {
        let lost = self
            .owned
            .iter()
            .filter(|(slot, tenure)| !tenure.leaving && !owned.contains_key(slot))
            .count();
        self.wiring.metrics.lease_losses.inc_by(lost as u64);
        self.owned.clone_from(owned);
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
        self.senders.stop();
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
