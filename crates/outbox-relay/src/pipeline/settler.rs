//! Records what Kafka acknowledged, several requests in one statement, and hands slots back.
//!
//! A fact needs no lease: what was acknowledged is recorded even when the slot is lost by now.

use service::retry::bounds;
use service::{ReadinessIssues, RetryLoop};
use storage::outbox::Settled;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use crate::event::Returned;
use crate::metrics::Metrics;
use crate::ports::OutboxConnection;

/// Events per statement at most.
const MAX_EVENTS: usize = 10_000;

const TASK: &str = "recording published events";

pub(crate) struct Settler {
    pub(crate) connection: Box<dyn OutboxConnection>,
    pub(crate) acknowledged: mpsc::Receiver<Vec<Settled>>,
    pub(crate) returned: mpsc::Sender<Returned>,
    /// Told while nothing can be recorded.
    pub(crate) postgres: ReadinessIssues,
    pub(crate) metrics: Metrics,
}

impl Settler {
    /// Settles until all senders are gone and nothing is left to settle.
    pub(crate) async fn run(mut self) {
        let issue = self.postgres.issue(TASK);
        let mut retry = RetryLoop::reporting(bounds::STANDSTILL, issue);
        while let Some(mut events) = self.acknowledged.recv().await {
            while events.len() < MAX_EVENTS {
                let Ok(more) = self.acknowledged.try_recv() else {
                    break;
                };
                events.extend(more);
            }
            self.settle(&mut events, &mut retry).await;
            if self.returned.send(Returned::of(&events)).await.is_err() {
                return;
            }
        }
    }

    /// Tries until it is done: there is nothing else to do with a fact.
    async fn settle(&mut self, events: &mut [Settled], retry: &mut RetryLoop) {
        loop {
            let started = Instant::now();
            match self.connection.settle(events).await {
                Ok(moved) => {
                    let seconds = started.elapsed().as_secs_f64();
                    self.metrics.settle_seconds.observe(seconds);
                    self.metrics.published.inc_by(moved as u64);
                    retry.succeeded();
                    return;
                }
                Err(error) => {
                    let log =
                        |error: &_| warn!(%error, "cannot record published events; trying again");
                    retry.wait_after(&error, log).await;
                }
            }
        }
    }
}
