//! Listens for wake-ups. Without them everything works, at the pace of polling.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use service::{Backoff, CancellationToken, LogThrottle};
use storage::notify::{Channel, listen, wake_ups};
use storage::{Database, Session, StorageError};
use tokio::sync::Notify;
use tracing::warn;

pub(crate) struct Listener {
    pub(crate) database: Database,
    pub(crate) session: Session,
    /// Told that events were committed.
    pub(crate) wake: Arc<Notify>,
}

impl Listener {
    /// Listens until `stop`, connecting anew whenever the connection breaks.
    pub(crate) async fn run(self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut trouble = LogThrottle::default();
        while let Some(outcome) = stop
            .run_until_cancelled(self.listen(&mut backoff, &mut trouble))
            .await
        {
            if let Err(error) = outcome
                && trouble.is_due(Instant::now())
            {
                warn!(%error, "wake-ups are lost; polling until they are back");
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            stop.run_until_cancelled(pause).await;
        }
    }

    async fn listen(
        &self,
        backoff: &mut Backoff,
        trouble: &mut LogThrottle,
    ) -> Result<(), StorageError> {
        let mut conn = self.database.connect(&self.session).await?;
        listen(&mut conn, &[Channel::Outbox]).await?;
        backoff.reset();
        trouble.end();
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
