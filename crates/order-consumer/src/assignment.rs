//! Keeps one consumer running per owned partition, and none for any other.

use std::collections::BTreeMap;

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
    let mut running: BTreeMap<i32, CancellationToken> = BTreeMap::new();
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
        for (partition, tenure) in ownership.units() {
            // Also one that nothing runs for, since its lease had run out in between, or was not
            // given back when it was to be.
            if tenure.leaving && !running.contains_key(&partition) {
                leases.release(partition).await;
            }
        }
        observe(running.len());
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = leases.changed() => {}
            Some(ended) = tasks.join_next() => {
                running.remove(&ended?);
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// A consumer whose lease is lost ends by itself; one whose partition another member is due is told.
fn stop_what_is_not_ours(ownership: &Ownership, running: &BTreeMap<i32, CancellationToken>) {
    let kept: BTreeMap<i32, bool> = ownership
        .units()
        .map(|(partition, tenure)| (partition, !tenure.leaving))
        .collect();
    for (partition, token) in running {
        if !kept.get(partition).copied().unwrap_or(false) {
            token.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::adapters::postgres::PostgresInboxes;
    use crate::ports::InboxFactory;
    use local_stack::testing::{TestDatabase, eventually};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Consumers that end as real ones do, and do nothing else.
    struct Idle(Leases);

    impl StartConsumer for Idle {
        fn start(
            &self,
            partition: i32,
            epoch: i64,
            stop: CancellationToken,
        ) -> impl Future<Output = ()> + Send + 'static {
            let leases = self.0.clone();
            async move {
                while !stop.is_cancelled() && leases.epoch(partition) == Some(epoch) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_others_are_due_is_given_back_also_when_nothing_runs_for_it() {
        let database = TestDatabase::create().await;
        let keeper = |ttl| {
            let database = database.url().parse().expect("the stack's own URL");
            PostgresInboxes::new(database).leases("s", ttl, 2)
        };
        let (mut ours, leases) = keeper(Duration::from_secs(1));
        ours.beat().await.expect("a beat");
        let (tell, running) = tokio::sync::watch::channel(0);
        let observe = move |count| {
            tell.send_replace(count);
        };
        let stop = CancellationToken::new();
        let consumers = Idle(leases.clone());
        let following = tokio::spawn(follow(leases.clone(), consumers, observe, stop.clone()));
        let until_running = async |count: usize| {
            let what = format!("{count} consumers");
            eventually(&what, PATIENCE, async || {
                (*running.borrow() == count).then_some(())
            })
            .await;
        };
        until_running(2).await;

        // Somebody comes, and before we know our leases run out. Nobody takes them.
        let (mut theirs, others) = keeper(Duration::from_mins(1));
        theirs.beat().await.expect("a beat");
        until_running(0).await;
        eventually("them to get their share", PATIENCE, async || {
            ours.beat().await.expect("a beat");
            ours.answer_requests().await.expect("an answer");
            theirs.beat().await.expect("a beat");
            (others.ownership().units().count() == 1).then_some(())
        })
        .await;
        until_running(1).await;
        stop.cancel();
        following.await.expect("no panic").expect("no panic inside");
    }
}
