//! Listens for wake-ups. Without them everything works, at the pace of polling.

use std::sync::Arc;

use futures::StreamExt;
use service::retry::bounds;
use service::{CancellationToken, RetryLoop};
use storage::notify::{Channel, listen, wake_ups};
use storage::{Database, Session, StorageError};
use tokio::sync::Notify;
use tracing::warn;

pub(crate) struct Listener {
    pub(crate) database: Database,
    pub(crate) session: Session,
    /// Notified that events were committed.
    pub(crate) wake: Arc<Notify>,
}

impl Listener {
    /// Listens until `stop`, and connects again whenever the connection breaks.
    pub(crate) async fn run(self, stop: &CancellationToken) {
        let mut retry = RetryLoop::new(bounds::HINTS);
        let log = |error: &_| warn!(%error, "wake-ups are lost; polling until they are back");
        while let Some(outcome) = stop.run_until_cancelled(self.listen(&mut retry)).await {
            let delay = match outcome {
                Ok(()) => retry.next_delay(),
                Err(error) => retry.failed(&error, log),
            };
            stop.run_until_cancelled(tokio::time::sleep(delay)).await;
        }
    }

    async fn listen(&self, retry: &mut RetryLoop) -> Result<(), StorageError> {
        let mut conn = self.database.connect(&self.session).await?;
        listen(&mut conn, &[Channel::Outbox]).await?;
        retry.succeeded();
        // What was committed before we listened told nobody.
        self.wake.notify_one();
        let mut wake_ups = std::pin::pin!(wake_ups(&mut conn));
        while let Some(channel) = wake_ups.next().await {
            match channel? {
                Channel::Outbox => self.wake.notify_one(),
                Channel::Lease => {}
            }
        }
        Ok(())
    }
}
