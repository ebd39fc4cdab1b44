//! Records what Kafka acknowledged, several requests in one statement, and hands slots back.
//!
//! A fact needs no lease: what was acknowledged is recorded even when the slot is lost by now.

use std::time::{Duration, Instant};

use service::{Backoff, Problems, Reminder};
use storage::outbox::{Settled, settle, settle_unavailable};
use storage::{OwnConnection, StorageError};
use tokio::sync::mpsc;
use tracing::warn;

use crate::metrics::Metrics;
use crate::partitions::{Partition, Partitions};
use crate::slots::Returned;

/// Events per statement at most.
const MAX_EVENTS: usize = 10_000;
const DEADLINE: Duration = Duration::from_secs(10);
/// Postgres being back, the next attempt must not be far: slots stand still until then.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const TASK: &str = "recording published events";

/// Events that Kafka has.
#[derive(Debug)]
pub(crate) enum Acknowledged {
    /// Read from pending, in flight until they are settled.
    Pending(Vec<Settled>),
    /// A probe, sent from held; ids and offsets.
    Unavailable {
        partition: Partition,
        events: Vec<(i64, i64)>,
    },
}

pub(crate) struct Settler {
    pub(crate) connection: OwnConnection,
    pub(crate) acknowledged: mpsc::Receiver<Acknowledged>,
    pub(crate) returned: mpsc::Sender<Returned>,
    pub(crate) partitions: Partitions,
    /// Told while nothing can be recorded.
    pub(crate) postgres: Problems,
    pub(crate) metrics: Metrics,
}

impl Settler {
    /// Settles until all senders are gone and nothing is left to settle.
    pub(crate) async fn run(mut self) {
        while let Some(acknowledged) = self.acknowledged.recv().await {
            let mut next = Some(acknowledged);
            let mut events: Vec<Settled> = Vec::new();
            let mut probes = Vec::new();
            while let Some(acknowledged) = next {
                match acknowledged {
                    Acknowledged::Pending(more) if events.is_empty() => events = more,
                    Acknowledged::Pending(more) => events.extend(more),
                    Acknowledged::Unavailable { partition, events } => {
                        probes.push((partition, events));
                    }
                }
                next = (events.len() < MAX_EVENTS)
                    .then(|| self.acknowledged.try_recv().ok())
                    .flatten();
            }
            if !events.is_empty() {
                self.settle(&mut Fact::Pending(&mut events)).await;
                if self.returned.send(Returned::of(&events)).await.is_err() {
                    return;
                }
            }
            for (partition, events) in probes {
                let mut fact = Fact::Unavailable(partition.1, &events);
                self.settle(&mut fact).await;
                // Only now: what is recorded as published cannot be moved back and sent again.
                self.partitions.accepted(&partition);
                self.partitions.end_probe(&partition);
            }
        }
    }

    /// Tries until it is done: there is nothing else to do with a fact.
    async fn settle(&mut self, fact: &mut Fact<'_>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        let mut trouble = Reminder::default();
        loop {
            let started = Instant::now();
            match self.attempt(fact).await {
                Ok(moved) => {
                    let seconds = started.elapsed().as_secs_f64();
                    self.metrics.settle_seconds.observe(seconds);
                    self.metrics.published.inc_by(moved as u64);
                    if trouble.end() {
                        self.postgres.clear(TASK);
                    }
                    return;
                }
                Err(error) => {
                    if trouble.is_due(Instant::now()) {
                        warn!(%error, "cannot record published events; trying again");
                    }
                    self.postgres.report(TASK, error);
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn attempt(&mut self, fact: &mut Fact<'_>) -> Result<usize, StorageError> {
        let record = async |conn: &mut _| match fact {
            Fact::Pending(events) => settle(conn, events).await,
            Fact::Unavailable(partition, events) => {
                settle_unavailable(conn, *partition, events).await
            }
        };
        self.connection.call(DEADLINE, record).await
    }
}

/// What is to be recorded.
enum Fact<'a> {
    Pending(&'a mut [Settled]),
    Unavailable(i32, &'a [(i64, i64)]),
}
