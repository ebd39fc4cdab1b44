//! One partition's sender: what it is given, where its results go, and single requests.
//! [`crate::delivery`] is its loop.

use std::collections::BTreeMap;
use std::time::Instant;

use domain::{OutboxEvent, Slot};
use messaging::{Failure, KafkaError, PartitionWriter, envelope};
use service::{CancellationToken, Reminder, Tracer};
use storage::lease::Leases;
use storage::outbox::{Hold, HoldCause, RowVersion};
use tokio::sync::mpsc;
use tracing::warn;

use crate::delivery::Delivery;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::partitions::{Partition, Partitions, State};
use crate::recovery::Probe;
use crate::settler::Acknowledged;
use crate::slots::Returned;
use crate::trace;

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
    pub(crate) tracer: Tracer,
    /// Of probes that fail.
    pub(crate) reminder: Reminder,
}

impl Sender {
    /// Sends until the relay is gone.
    pub(crate) async fn run(self) {
        let (failing, name) = (self.health.failing.clone(), self.name());
        Delivery::new(self).run().await;
        // Whatever its latest probe met.
        failing.clear(name);
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.partition.0, self.partition.1)
    }

    pub(crate) fn is_set_aside(&self) -> bool {
        self.partitions.state(&self.partition) == Some(State::SetAside)
    }

    pub(crate) fn owns(&self, slot: Slot, epoch: i64) -> bool {
        self.owned().get(&slot.number().into()) == Some(&epoch)
    }

    /// The epochs of the slots that may be sent at this moment: none once stopped.
    pub(crate) fn owned(&self) -> BTreeMap<i32, i64> {
        if self.stop.is_cancelled() {
            return BTreeMap::new();
        }
        let ownership = self.leases.ownership();
        let epochs = ownership.units();
        epochs.map(|(unit, tenure)| (unit, tenure.epoch)).collect()
    }

    pub(crate) async fn give_back(&self, slots: impl Iterator<Item = Slot>) {
        // The relay being gone, nobody counts any more.
        let _ = self.outlets.returned.send(Returned::slots(slots)).await;
    }

    pub(crate) async fn hold(&self, holds: Vec<Hold>) {
        if !holds.is_empty() {
            // The holder outlives the senders; it is gone only when the process is going.
            let _ = self.outlets.holds.send(holds).await;
        }
    }

    /// One produce request, timed.
    pub(crate) async fn produce<'a>(
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
    pub(crate) async fn probe(&mut self, probe: Probe) {
        if self.owns(probe.slot, probe.epoch) {
            let begun = Instant::now();
            match self
                .produce(probe.events.iter().map(|(_, event)| event))
                .await
            {
                Ok(first_offset) => {
                    if self.tracer.is_on() {
                        let events = probe.events.iter().map(|(_, event)| event);
                        trace::sent(&self.tracer, self.partition.1, begun, first_offset, events);
                    }
                    let ids = probe.events.iter().map(|(id, _)| *id);
                    let acknowledged = Acknowledged::Unavailable {
                        partition: self.partition.clone(),
                        events: ids.zip(first_offset..).collect(),
                    };
                    let _ = self.outlets.acknowledged.send(acknowledged).await;
                    self.health.failing.clear(self.name());
                    self.reminder.end();
                    return;
                }
                Err(error) if error.failure() == Failure::Impossible => {
                    self.partitions.accepted(&self.partition);
                }
                Err(error) => self.report_probe(&error),
            }
        }
        self.partitions.end_probe(&self.partition);
    }

    fn report_probe(&mut self, error: &KafkaError) {
        self.health.failing.report(self.name(), error);
        if self.reminder.is_due(Instant::now()) {
            let (topic, partition) = (&self.partition.0, self.partition.1);
            let needs_action = error.failure() == Failure::Configuration;
            warn!(topic, partition, %error, needs_action, "still set aside; trying again");
        }
    }
}
