//! P11, for the partitions of a consumer: once the causes are gone records flow again within 30 s,
//! without a restart, and never pause for longer; while one waits for longer, `/readyz` says so.

use std::time::{Duration, Instant};

use local_stack::testing::eventually;

use crate::ops::Ops;

/// The longest that records may wait while nothing is in their way.
pub(crate) const PAUSE: Duration = Duration::from_secs(30);

/// What has been applied reaches `goal`, and never pauses for longer than P11 allows. Nothing stands
/// in the way any more when this is called.
pub(crate) async fn flows(goal: i64, mut applied: impl AsyncFnMut() -> Option<i64>) {
    let begun = Instant::now();
    let (mut before, mut moved) = (-1, begun);
    loop {
        let now = applied().await.unwrap_or(before);
        assert!(now <= goal, "{now} applied of {goal}");
        if now == goal {
            println!("all {goal} applied after {:?}", begun.elapsed());
            return;
        }
        if now != before {
            (before, moved) = (now, Instant::now());
        }
        let paused = moved.elapsed();
        assert!(paused < PAUSE, "{now} of {goal} for {paused:?}");
        // How often it looks; how long it may take depends on what it sees.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The process says that it is not ready, by this check, and why. Waits a little longer than P11
/// allows a record to wait.
pub(crate) async fn stands_still(ops: Ops, check: &str, parts: &[&str]) {
    let mut last = None;
    let what = format!("{check} to name what stands still");
    eventually(&what, PAUSE + Duration::from_secs(10), async || {
        let reason = ops.reason(check).await;
        if reason != last {
            println!("{check}: {reason:?}");
            last.clone_from(&reason);
        }
        let named = |reason: String| parts.iter().all(|part| reason.contains(part));
        reason.is_some_and(named).then_some(())
    })
    .await;
}
