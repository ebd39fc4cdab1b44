//! Deletes expired idempotency keys, a few at a time, so that no request waits for it. Any number of
//! processes may do so at once.

use std::time::Duration;

use service::CancellationToken;

use crate::store::{Store, StoreError};

/// Keys in one delete.
const BATCH: u32 = 1_000;
/// Pause once nothing is left to delete, unless keys live shorter than that.
const INTERVAL: Duration = Duration::from_mins(1);

/// Whether there may be more to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    More,
    Done,
}

/// Deletes until `stop` is cancelled. A failure only delays it.
pub async fn clean(store: Store, stop: CancellationToken) {
    let interval = INTERVAL.min(store.key_lifetime());
    let cleaning = async {
        loop {
            match step(&store).await {
                Ok(Progress::More) => continue,
                Ok(Progress::Done) => {}
                // The readiness check reports an outage; rows that stay cost only space.
                Err(error) => tracing::debug!(%error, "cannot delete expired idempotency keys"),
            }
            tokio::time::sleep(interval).await;
        }
    };
    stop.run_until_cancelled(cleaning).await;
}

/// Deletes one batch.
///
/// # Errors
/// When Postgres cannot answer.
pub async fn step(store: &Store) -> Result<Progress, StoreError> {
    let deleted = store.delete_expired_keys(BATCH).await?;
    let full = usize::try_from(BATCH).is_ok_and(|batch| deleted >= batch);
    Ok(if full { Progress::More } else { Progress::Done })
}
