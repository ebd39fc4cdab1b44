//! Holds events that cannot go out now, several in one transaction, and hands their slots back.

use std::time::Duration;

use service::retry::bounds;
use service::{ReadinessIssues, RetryLoop};
use storage::lease::MemberId;
use storage::outbox::{Hold, HoldCause};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use crate::event::Returned;
use crate::metrics::Metrics;
use crate::ports::OutboxConnection;

/// Dead and blocked events per transaction at most: each key of them is a lock.
const MAX_KEYS: usize = 500;
/// Unavailable events per transaction at most.
const MAX_EVENTS: usize = 5_000;
/// With nothing to hold for this long, that it could not be done is of no matter any more.
const QUIET: Duration = Duration::from_secs(10);
const TASK: &str = "holding events";

pub(crate) struct Holder {
    pub(crate) connection: Box<dyn OutboxConnection>,
    pub(crate) member: MemberId,
    pub(crate) holds: mpsc::Receiver<Vec<Hold>>,
    pub(crate) returned: mpsc::Sender<Returned>,
    /// Told while nothing can be held.
    pub(crate) postgres: ReadinessIssues,
    pub(crate) metrics: Metrics,
}

impl Holder {
    /// Holds until all who ask are gone.
    pub(crate) async fn run(mut self) {
        let mut retry = RetryLoop::reporting(bounds::TASK, self.postgres.issue(TASK));
        while let Some(mut holds) = self.next(&mut retry).await {
            while holds.len() < MAX_EVENTS {
                let Ok(more) = self.holds.try_recv() else {
                    break;
                };
                holds.extend(more);
            }
            let (unavailable, others): (Vec<Hold>, Vec<Hold>) = holds
                .into_iter()
                .partition(|hold| hold.cause == HoldCause::Unavailable);
            let parts = unavailable.chunks(MAX_EVENTS);
            for part in parts.chain(others.chunks(MAX_KEYS)) {
                self.hold(part, &mut retry).await;
                // Held or not: what is not stays pending, and is read again.
                let returned = Returned::slots(part.iter().map(|hold| hold.slot));
                if self.returned.send(returned).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn next(&mut self, retry: &mut RetryLoop) -> Option<Vec<Hold>> {
        if retry.is_failing() {
            if let Ok(next) = tokio::time::timeout(QUIET, self.holds.recv()).await {
                return next;
            }
            retry.succeeded();
        }
        self.holds.recv().await
    }

    async fn hold(&mut self, holds: &[Hold], retry: &mut RetryLoop) {
        let started = Instant::now();
        match self.connection.hold(self.member, holds).await {
            Ok(held) => {
                retry.succeeded();
                self.metrics.held(&held);
                self.metrics
                    .hold_seconds
                    .observe(started.elapsed().as_secs_f64());
            }
            Err(error) => {
                let events = holds.len();
                let log =
                    |error: &_| warn!(%error, events, "cannot hold events; they stay pending");
                // Read again at once they would only come back here.
                retry.wait_after(&error, log).await;
            }
        }
    }
}
