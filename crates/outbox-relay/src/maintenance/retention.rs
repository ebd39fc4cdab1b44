//! Deletes what is older than `OUTBOX_RETENTION`, a little at a time, beside the pipeline: on a
//! connection of its own, waiting for nobody.

use std::sync::Arc;
use std::time::Duration;

use service::retry::bounds;
use service::{CancellationToken, RetryLoop};
use storage::StorageError;
use storage::outbox::Done;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::ports::{Outbox, OutboxConnection, Role};

/// Rows looked at per statement: some ten milliseconds of work.
const STEP_ROWS: i64 = 2_000;
/// Time between two passes.
const INTERVAL: Duration = Duration::from_mins(1);
/// A step is followed by a pause this many times as long: a pass takes a third of a connection's
/// time, and stays ahead of tens of thousands of events a second.
const PAUSE_SHARE: u32 = 2;

/// See the module.
pub(crate) struct Cleaner {
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) retention: Duration,
    pub(crate) metrics: Metrics,
}

impl Cleaner {
    /// Cleans every minute until `stop`.
    pub(crate) async fn run(self, stop: &CancellationToken) {
        let mut retry = RetryLoop::new(bounds::HOUSEKEEPING);
        while let Some(passed) = stop.run_until_cancelled(self.pass()).await {
            let pause = match passed {
                Ok(deleted) => {
                    if deleted > 0 {
                        info!(deleted, "deleted old events");
                    }
                    retry.succeeded();
                    INTERVAL
                }
                Err(error) => retry.failed(
                    &error,
                    |error| warn!(%error, "cannot delete old events; trying again"),
                ),
            };
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    /// One walk over all that is done, from the lowest id; less when another relay is at it.
    async fn pass(&self) -> Result<i64, StorageError> {
        let mut conn = self.outbox.connection(Role::Maintenance);
        let mut deleted = 0;
        for done in [Done::Published, Done::Discarded] {
            deleted += self.walk(conn.as_mut(), done).await?;
        }
        Ok(deleted)
    }

    async fn walk(&self, conn: &mut dyn OutboxConnection, done: Done) -> Result<i64, StorageError> {
        let (mut deleted, mut after) = (0, None);
        loop {
            let started = Instant::now();
            let step = conn.clean(done, self.retention, after, STEP_ROWS);
            let Some(cleaned) = step.await? else {
                return Ok(deleted);
            };
            deleted += cleaned.deleted;
            let counted = u64::try_from(cleaned.deleted).unwrap_or_default();
            self.metrics.deleted.inc_by(counted);
            after = cleaned.last;
            if after.is_none() {
                return Ok(deleted);
            }
            tokio::time::sleep(started.elapsed() * PAUSE_SHARE).await;
        }
    }
}
