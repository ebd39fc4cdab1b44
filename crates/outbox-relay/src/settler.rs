//! Records what Kafka acknowledged, several requests in one statement, and hands slots back.
//!
//! A fact needs no lease: what was acknowledged is recorded even when the slot is lost by now.

use std::time::{Duration, Instant};

use service::Backoff;
use storage::outbox::{Settled, settle};
use storage::{Connection, Database, Session, StorageError, within};
use tokio::sync::mpsc;
use tracing::warn;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::relay::Returned;

/// Events per statement at most.
const MAX_EVENTS: usize = 10_000;
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Settler {
    pub(crate) database: Database,
    pub(crate) session: Session,
    pub(crate) acknowledged: mpsc::Receiver<Vec<Settled>>,
    pub(crate) returned: mpsc::Sender<Returned>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
}

impl Settler {
    /// Settles until all senders are gone and nothing is left to settle.
    pub(crate) async fn run(mut self) {
        let mut connection = None;
        while let Some(mut events) = self.acknowledged.recv().await {
            while events.len() < MAX_EVENTS {
                let Ok(more) = self.acknowledged.try_recv() else {
                    break;
                };
                events.extend(more);
            }
            self.settle(&mut connection, &mut events).await;
            if self.returned.send(Returned::of(&events)).await.is_err() {
                return;
            }
        }
    }

    /// Tries until it is done: there is nothing else to do with a fact.
    async fn settle(&self, connection: &mut Option<Connection>, events: &mut [Settled]) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let started = Instant::now();
            match self.attempt(connection, events).await {
                Ok(moved) => {
                    let seconds = started.elapsed().as_secs_f64();
                    self.metrics.settle_seconds.observe(seconds);
                    self.metrics.published.inc_by(moved as u64);
                    self.health.progressed();
                    return;
                }
                Err(error) => {
                    *connection = None;
                    warn!(%error, events = events.len(), "cannot record published events; trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn attempt(
        &self,
        connection: &mut Option<Connection>,
        events: &mut [Settled],
    ) -> Result<usize, StorageError> {
        let conn = match connection {
            Some(conn) => conn,
            None => connection.insert(self.database.connect(&self.session).await?),
        };
        within(DEADLINE, settle(conn, events)).await
    }
}
