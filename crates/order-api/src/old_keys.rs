//! Forgets idempotency keys that have outlived their lifetime, a few at a time, so that no request
//! waits for it. Any number of processes may do so at once.

use std::time::Duration;

use service::CancellationToken;

use crate::store::{Store, StoreError};

/// Keys in one delete.
const BATCH: u32 = 1_000;
/// Time between two looks when there was nothing more to forget, unless keys live shorter than that.
const INTERVAL: Duration = Duration::from_mins(1);

/// Whether there may be more to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    More,
    Done,
}

/// Cleans until `stop` is cancelled. A failure is no more than a delay.
pub async fn clean(store: Store, stop: CancellationToken) {
    let interval = INTERVAL.min(store.key_lifetime());
    let cleaning = async {
        loop {
            match step(&store).await {
                Ok(Progress::More) => continue,
                Ok(Progress::Done) => {}
                // The readiness check tells of an outage; rows that stay cost only space.
                Err(error) => tracing::debug!(%error, "old keys stay for now"),
            }
            tokio::time::sleep(interval).await;
        }
    };
    stop.run_until_cancelled(cleaning).await;
}

/// One small delete.
///
/// # Errors
/// Postgres cannot answer.
pub async fn step(store: &Store) -> Result<Progress, StoreError> {
    let forgotten = store.forget_keys(BATCH).await?;
    let full = usize::try_from(BATCH).is_ok_and(|batch| forgotten >= batch);
    Ok(if full { Progress::More } else { Progress::Done })
}
