//! Keeps one consumer running per owned partition, and none for any other.

use std::collections::HashMap;

use service::CancellationToken;
use storage::lease::{Leases, Ownership};
use tokio::task::{JoinError, JoinSet};

/// Starts the consumer of a partition under an epoch; it runs until its token is cancelled or its
/// lease ends.
pub(crate) trait StartConsumer {
    fn start(
        &self,
        partition: i32,
        epoch: i64,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Follows the leases until `stop`, then waits for all consumers to finish their batches.
///
/// # Errors
/// When a consumer panicked.
pub(crate) async fn follow(
    mut leases: Leases,
    consumers: impl StartConsumer,
    observe: impl Fn(usize),
    stop: CancellationToken,
) -> Result<(), JoinError> {
    let mut running: HashMap<i32, CancellationToken> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        if stop.is_cancelled() {
            break;
        }
        let ownership = leases.ownership();
        stop_what_is_not_ours(&ownership, &running);
        for (partition, tenure) in ownership.units() {
            if !tenure.leaving && !running.contains_key(&partition) {
                let token = stop.child_token();
                let consumer = consumers.start(partition, tenure.epoch, token.clone());
                running.insert(partition, token);
                tasks.spawn(async move {
                    consumer.await;
                    partition
                });
            }
        }
        observe(running.len());
        tokio::select! {
            () = stop.cancelled() => {}
            () = leases.changed() => {}
            Some(ended) = tasks.join_next() => {
                let partition = ended?;
                running.remove(&partition);
                let leaving = leases.ownership().units().any(|(unit, tenure)| unit == partition && tenure.leaving);
                if leaving {
                    leases.release(partition).await;
                }
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// A consumer whose lease is lost ends by itself; one whose partition another member is due is told.
fn stop_what_is_not_ours(ownership: &Ownership, running: &HashMap<i32, CancellationToken>) {
    let kept: HashMap<i32, bool> = ownership
        .units()
        .map(|(partition, tenure)| (partition, !tenure.leaving))
        .collect();
    for (partition, token) in running {
        if !kept.get(partition).copied().unwrap_or(false) {
            token.cancel();
        }
    }
}
