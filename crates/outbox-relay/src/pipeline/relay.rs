//! The relay's loop: reads idle slots, routes what it finds, takes back what was settled.
//!
//! [`Relay::step`] is one turn of it and never waits for Kafka.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::Slot;
use service::retry::bounds;
use service::{CancellationToken, ReadinessIssues, RetryLoop, Tracer};
use storage::StorageError;
use storage::lease::{HeldLease, Leases};
use storage::outbox::Batch;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::warn;

use crate::event::Returned;
use crate::metrics::Metrics;
use crate::pipeline::in_flight::Slots;
use crate::pipeline::poll_interval::PollInterval;
use crate::pipeline::reader::Reader;
use crate::pipeline::router::Router;
use crate::unavailable::circuits::Circuits;

/// How long a stop waits for requests that are out.
const FINISH_DEADLINE: Duration = Duration::from_secs(6);
/// Time between two reads while no partition can be written, and events per slot of each: a backlog
/// should not be carried to held and back where Kafka is away for a moment.
const OUTAGE_INTERVAL: Duration = Duration::from_secs(2);
const OUTAGE_EVENTS: i64 = 100;
/// After this long it is carried to held all the same: a partition that was not tried of late may lie
/// behind it, and be well.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(15);
/// Longest pause of the loop: stalls are looked for at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const TASK: &str = "reading the outbox";

/// What one [`Relay::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read events and handed this many (at least one) to their senders.
    Dispatched(usize),
    /// Read, and found nothing to send.
    Idle,
    /// Every slot it may read has events in flight.
    Busy,
    /// No partition can be written, and the next read is not due yet.
    Outage,
    /// A read ran into its time limit: the next one is of fewer slots.
    ReadTooSlow,
    /// It owns no slot.
    NothingOwned,
}

/// Why a relay ends.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("a task of the pipeline ended unexpectedly: {0}")]
    TaskDied(#[from] JoinError),
}

/// See the module.
pub struct Relay {
    reader: Reader,
    router: Router,
    leases: Leases,
    circuits: Circuits,
    wake: Arc<Notify>,
    metrics: Metrics,
    /// Told while the outbox cannot be read.
    postgres: ReadinessIssues,
    /// When it last read although no partition could be written.
    outage_read: Option<Instant>,
    /// Since when no partition can be written.
    outage_since: Option<Instant>,
    /// The latest step found events.
    flowing: bool,
    /// The latest step left idle slots for the next one.
    unread: bool,
    /// As of the latest step.
    owned: HashMap<Slot, HeldLease>,
    slots: Slots,
    /// The settler and the holder.
    tasks: JoinSet<()>,
    returned: mpsc::Receiver<Returned>,
}

/// What a relay is made of.
pub(crate) struct RelayParts {
    pub(crate) reader: Reader,
    pub(crate) router: Router,
    pub(crate) leases: Leases,
    pub(crate) circuits: Circuits,
    pub(crate) wake: Arc<Notify>,
    pub(crate) metrics: Metrics,
    pub(crate) postgres: ReadinessIssues,
    /// The settler and the holder.
    pub(crate) tasks: JoinSet<()>,
    pub(crate) returned: mpsc::Receiver<Returned>,
}

impl Relay {
    pub(crate) fn new(parts: RelayParts) -> Self {
        Self {
            reader: parts.reader,
            router: parts.router,
            leases: parts.leases,
            circuits: parts.circuits,
            wake: parts.wake,
            metrics: parts.metrics,
            postgres: parts.postgres,
            outage_read: None,
            outage_since: None,
            flowing: false,
            unread: false,
            owned: HashMap::new(),
            slots: Slots::new(),
            tasks: parts.tasks,
            returned: parts.returned,
        }
    }

    /// Notes a span for each event that is sent.
    pub(crate) fn trace(&mut self, tracer: Tracer) {
        self.router.senders.trace(tracer);
    }

    /// Runs until `stop`, then finishes what is in flight.
    ///
    /// # Errors
    /// When a task of the pipeline ends unexpectedly. Outages of Postgres and Kafka are waited out.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), RelayError> {
        let mut interval = PollInterval::new();
        // Without an issue of its own: leases that have run out are reported here too.
        let mut retry = RetryLoop::new(bounds::STANDSTILL);
        let mut read_error: Option<String> = None;
        while !stop.is_cancelled() {
            let started = Instant::now();
            // A read may take long: whoever leaves does not wait for it.
            let Some(stepped) = stop.run_until_cancelled(self.step()).await else {
                break;
            };
            let pause = match stepped {
                // Nobody asked Postgres anything.
                Ok(Step::NothingOwned) if self.leases.ownership().has_run_out() => {
                    let why = read_error.as_deref().map(|error| format!(": {error}"));
                    self.postgres.report(
                        TASK,
                        format!(
                            "the leases expired and are not renewed{}",
                            why.unwrap_or_default()
                        ),
                    );
                    LONGEST_PAUSE
                }
                Ok(done) => {
                    // Without a read nothing is known of Postgres.
                    if !matches!(done, Step::Busy | Step::Outage) {
                        self.postgres.clear(TASK);
                        retry.succeeded();
                        read_error = None;
                    }
                    match done {
                        Step::Dispatched(_) if self.unread => Duration::ZERO,
                        Step::Dispatched(_) => {
                            interval.found();
                            interval.found_nothing(Duration::ZERO)
                        }
                        Step::Idle => interval.found_nothing(started.elapsed()),
                        Step::ReadTooSlow => Duration::ZERO,
                        // Something else than time ends these.
                        Step::Busy | Step::NothingOwned | Step::Outage => LONGEST_PAUSE,
                    }
                }
                Err(error) => {
                    self.postgres.report(TASK, &error);
                    read_error = Some(error.to_string());
                    let log = |error: &_| warn!(%error, "cannot read the outbox; trying again");
                    retry.failed(&error, log)
                }
            };
            let wake_ups = self.metrics.wake_ups.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => { wake_ups.poll.inc(); }
                () = self.wake.notified() => { wake_ups.notification.inc(); }
                () = self.leases.changed() => { wake_ups.lease.inc(); }
                Ok(()) = self.router.routes.topics.changed() => {}
                Some(returned) = self.returned.recv() => {
                    wake_ups.settled.inc();
                    self.take_back(&returned);
                }
                ended = self.router.senders.ended() => ended?,
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
    /// When Postgres cannot be read. Nothing is lost, and the next step connects again.
    pub async fn step(&mut self) -> Result<Step, StorageError> {
        while let Ok(returned) = self.returned.try_recv() {
            self.take_back(&returned);
        }
        let owned: HashMap<Slot, HeldLease> = self
            .leases
            .ownership()
            .units()
            .filter_map(|(unit, tenure)| Some((Slot::try_from(unit).ok()?, tenure)))
            .collect();
        self.count_losses(&owned);
        self.hand_over(&owned).await;
        self.observe(owned.len());
        if owned.is_empty() {
            self.router.report_missing_topics(&owned);
            return Ok(Step::NothingOwned);
        }
        self.router.adopt_topics();
        let mut idle: Vec<Slot> = owned
            .iter()
            .filter(|(slot, tenure)| !tenure.leaving && self.slots.is_idle(**slot))
            .map(|(slot, _)| *slot)
            .collect();
        if idle.is_empty() || self.reader.room(self.slots.bytes()) <= 0 {
            return Ok(Step::Busy);
        }
        let outage = self.is_new_outage();
        if outage {
            if self
                .outage_read
                .is_some_and(|at| at.elapsed() < OUTAGE_INTERVAL)
            {
                return Ok(Step::Outage);
            }
            self.outage_read = Some(Instant::now());
        }
        let most = if outage { OUTAGE_EVENTS } else { i64::MAX };
        self.slots.sort_by_turn(&mut idle);
        // While events flow, half of the slots at a time: one half is read while the other is
        // produced and settled. Otherwise one look at all of them costs least.
        let part = if self.flowing && !outage {
            owned.len().div_ceil(2)
        } else {
            idle.len()
        };
        let part = part.min(self.reader.slots_at_once());
        self.flowing = false;
        self.unread = false;
        for (read, slots) in (1..).zip(idle.chunks(part)) {
            let Some(dispatched) = self.relay(slots, most, &owned).await? else {
                return Ok(Step::ReadTooSlow);
            };
            // In an outage all slots have their turn, a few events each.
            if dispatched > 0 && !outage {
                self.flowing = true;
                self.unread = read * part < idle.len();
                self.observe(owned.len());
                return Ok(Step::Dispatched(dispatched));
            }
        }
        Ok(Step::Idle)
    }

    /// Whether no partition can be written, and that is so for a short time only.
    fn is_new_outage(&mut self) -> bool {
        if !self.circuits.total_outage(Instant::now()) {
            self.outage_since = None;
            return false;
        }
        let since = *self.outage_since.get_or_insert_with(Instant::now);
        since.elapsed() < OUTAGE_PATIENCE
    }

    /// Reads these slots, `most` events of each, and hands on what it finds; returns how many events
    /// that was, `None` where the read ran into its limit.
    async fn relay(
        &mut self,
        slots: &[Slot],
        most: i64,
        owned: &HashMap<Slot, HeldLease>,
    ) -> Result<Option<usize>, StorageError> {
        let room = self.reader.room(self.slots.bytes());
        let Some(batch) = self.reader.read(slots, most, room).await? else {
            // The others have their turn first.
            self.slots.read(slots.iter().copied());
            return Ok(None);
        };
        self.slots.read(slots_of(&batch));
        let read = if batch.bytes < room {
            slots.iter().copied().collect()
        } else {
            // Of the others nothing is known: they found no room.
            slots_of(&batch).collect()
        };
        let dispatched = self.router.dispatch(batch, &read, owned, &mut self.slots);
        Ok(Some(dispatched))
    }

    fn take_back(&mut self, returned: &Returned) {
        for (slot, events) in &returned.0 {
            self.slots.returned(*slot, *events);
        }
    }

    /// A slot that is gone without having been asked for was lost.
    fn count_losses(&mut self, owned: &HashMap<Slot, HeldLease>) {
        let lost = self
            .owned
            .iter()
            .filter(|(slot, tenure)| !tenure.leaving && !owned.contains_key(slot))
            .count();
        self.metrics.lease_losses.inc_by(lost as u64);
        self.owned.clone_from(owned);
    }

    async fn hand_over(&self, owned: &HashMap<Slot, HeldLease>) {
        for (slot, tenure) in owned {
            if tenure.leaving && self.slots.is_idle(*slot) {
                self.leases.release(slot.number().into()).await;
            }
        }
    }

    fn observe(&self, owned: usize) {
        let in_flight = self.slots.total();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.slots_owned.set(count(owned));
        self.metrics.in_flight.set(count(in_flight));
    }

    /// Lets requests that are out end and records them; what was not sent yet stays pending.
    pub async fn finish(mut self) {
        self.router.senders.stop();
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
                "stopping with unanswered requests; their events may be sent again"
            );
        }
        self.tasks.shutdown().await;
    }
}

fn slots_of(batch: &Batch) -> impl Iterator<Item = Slot> {
    let oversized = batch.oversized.iter().map(|event| event.slot);
    batch.events.iter().map(|event| event.slot).chain(oversized)
}
