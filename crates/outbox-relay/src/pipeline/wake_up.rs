//! Listens for wake-ups. Without them everything works, at the pace of polling.

use std::sync::Arc;

use service::retry::bounds;
use service::{CancellationToken, RetryLoop};
use storage::StorageError;
use tokio::sync::Notify;
use tracing::warn;

use crate::ports::OutboxConnection;

pub(crate) struct Listener {
    pub(crate) connection: Box<dyn OutboxConnection>,
    /// Notified that events were committed.
    pub(crate) wake: Arc<Notify>,
}

impl Listener {
    /// Listens until `stop`, and connects again whenever the connection breaks.
    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        let mut retry = RetryLoop::new(bounds::HINTS);
        let log = |error: &_| warn!(%error, "wake-ups are lost; polling until they are back");
        while let Some(broke) = stop.run_until_cancelled(self.listen(&mut retry)).await {
            let delay = retry.failed(&broke, log);
            stop.run_until_cancelled(tokio::time::sleep(delay)).await;
        }
    }

    /// Returns why no wake-ups come.
    async fn listen(&mut self, retry: &mut RetryLoop) -> StorageError {
        if let Err(error) = self.connection.listen().await {
            return error;
        }
        retry.succeeded();
        loop {
            // First for what was committed before we listened.
            self.wake.notify_one();
            if let Err(error) = self.connection.wake_up().await {
                return error;
            }
        }
    }
}
