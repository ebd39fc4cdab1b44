//! Wake-ups for the relay: `NOTIFY` after commits, from one connection of its own. A hint and never
//! more: a request never waits for it, and an order does not depend on it.
//!
//! What has to be sent is one bit ("something was committed since the last one"), so there is no
//! queue that could grow. When to send it is decided in [`pacing`].

pub mod pacing;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use service::retry::bounds;
use service::{CancellationToken, RetryLoop};
use storage::notify::{Channel, notify};
use storage::{Database, DedicatedConnection, Session, StorageError};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::Metrics;
use pacing::Pacing;

/// Longer than any answer a living server gives.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// Where commits are reported. Clones report to the same task.
#[derive(Debug, Clone, Default)]
pub struct WakeUps {
    committed: Arc<Notify>,
}

impl WakeUps {
    /// Reports a commit. Returns at once.
    pub fn committed(&self) {
        self.committed.notify_one();
    }
}

/// The task that sends.
pub struct Sender {
    wake_ups: WakeUps,
    metrics: Metrics,
    connection: DedicatedConnection,
    pacing: Pacing,
    retry: RetryLoop,
}

impl Sender {
    /// A task for the commits reported to `wake_ups`. Connects once it runs.
    pub fn new(wake_ups: WakeUps, database: Database, metrics: Metrics) -> Self {
        Self {
            wake_ups,
            metrics,
            connection: DedicatedConnection::new(database, Session::request("order-api-wake-up")),
            pacing: Pacing::default(),
            retry: RetryLoop::new(bounds::TASK),
        }
    }

    /// Sends until `stop` is cancelled; what was reported before that is still sent, if it can be.
    pub async fn run(mut self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.connect()).await;
        let committed = Arc::clone(&self.wake_ups.committed);
        while stop
            .run_until_cancelled(committed.notified())
            .await
            .is_some()
        {
            let _ = stop.run_until_cancelled(self.step()).await;
        }
        if committed.notified().now_or_never().is_some() {
            // Once: Postgres may be away, and somebody waits for this process to end.
            let _ = self.send().await;
        }
    }

    /// Sends one wake-up when it is due, however long Postgres is away. For a commit that has been
    /// reported.
    pub async fn step(&mut self) {
        tokio::time::sleep_until(self.pacing.due(Instant::now())).await;
        // Commits reported during the wait share this one.
        let _ = self.wake_ups.committed.notified().now_or_never();
        while let Err(error) = self.send().await {
            self.retry.wait_after(&error, log_failure).await;
        }
    }

    /// Has a connection when it returns, so that the first order does not wait for one.
    async fn connect(&mut self) {
        while let Err(error) = self.connection.connect().await {
            self.retry.wait_after(&error, log_failure).await;
        }
        self.works();
    }

    async fn send(&mut self) -> Result<(), StorageError> {
        let send = async |conn: &mut _| notify(conn, Channel::Outbox).await;
        self.connection.call(SEND_WITHIN, send).await?;
        self.pacing.sent(Instant::now());
        self.metrics.outbox_wake_ups.inc();
        self.works();
        Ok(())
    }

    fn works(&mut self) {
        if self.retry.succeeded() {
            tracing::info!("sending wake-ups again");
        }
    }
}

fn log_failure(error: &StorageError) {
    tracing::warn!(%error, "cannot send wake-ups; the relay polls");
}
