//! One partition's sender: what it is given, where its results go, and single requests.
//! [`crate::sender::delivery`] is its loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{OutboxEvent, Slot};
use messaging::{KafkaError, OutgoingRecord, envelope};
use service::{CancellationToken, Tracer};
use storage::lease::Leases;
use storage::outbox::{Hold, Settled};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::event::{Dispatched, Returned};
use crate::maintenance::health::Health;
use crate::metrics::Metrics;
use crate::ports::{Producer, RecordWriter};
use crate::unavailable::circuits::{Circuits, Partition};

/// Where a sender's events go on to. Cloned for each sender.
#[derive(Clone)]
pub(crate) struct SenderChannels {
    /// Events that Kafka has, in flight until they are settled.
    pub(crate) acknowledged: mpsc::Sender<Vec<Settled>>,
    pub(crate) holds: mpsc::Sender<Vec<Hold>>,
    pub(crate) returned: mpsc::Sender<Returned>,
    /// Topics that turned out to be missing.
    pub(crate) wanted: mpsc::Sender<String>,
}

pub(crate) struct Sender {
    pub(crate) partition: Partition,
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) writer: Box<dyn RecordWriter>,
    pub(crate) queue: mpsc::Receiver<Dispatched>,
    pub(crate) leases: Leases,
    pub(crate) channels: SenderChannels,
    pub(crate) circuits: Circuits,
    /// Cancelled: finish the request that is out, drop the rest.
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) tracer: Tracer,
}

/// How a request for a test ended, and the writer that sent it.
pub(crate) struct Tested {
    pub(crate) writer: Box<dyn RecordWriter>,
    pub(crate) outcome: Result<i64, KafkaError>,
}

impl Sender {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.partition.0, self.partition.1)
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
        let _ = self.channels.returned.send(Returned::slots(slots)).await;
    }

    pub(crate) async fn hold(&self, holds: Vec<Hold>) {
        if !holds.is_empty() {
            // The holder outlives the senders; it is gone only when the process is going.
            let _ = self.channels.holds.send(holds).await;
        }
    }

    /// One produce request, timed.
    pub(crate) async fn produce<'a>(
        &mut self,
        events: impl Iterator<Item = &'a OutboxEvent>,
    ) -> Result<i64, KafkaError> {
        let records = events.map(envelope::encode).collect();
        produce(self.writer.as_mut(), records, &self.metrics).await
    }

    /// The same, to be driven by itself, over a connection of its own.
    pub(crate) fn separate_request(
        &self,
        chunk: &[Dispatched],
    ) -> impl Future<Output = Tested> + Send + use<> {
        let records = chunk.iter().map(|d| envelope::encode(&d.event)).collect();
        let (topic, partition) = &self.partition;
        let mut writer = self.producer.writer(topic, *partition);
        let metrics = self.metrics.clone();
        async move {
            let outcome = produce(writer.as_mut(), records, &metrics).await;
            Tested { writer, outcome }
        }
    }
}

async fn produce(
    writer: &mut dyn RecordWriter,
    records: Vec<OutgoingRecord>,
    metrics: &Metrics,
) -> Result<i64, KafkaError> {
    let started = Instant::now();
    let produced = writer.produce(records).await;
    let seconds = started.elapsed().as_secs_f64();
    metrics.produce_seconds.observe(seconds);
    produced
}
