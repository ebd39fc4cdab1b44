//! Observes the outbox from beside the pipeline: fills the gauges about the database, and reports
//! whether the pipeline makes progress. It has a connection of its own, so that it sees a pipeline
//! that hangs.

use std::collections::HashMap;
use std::time::Duration;

use service::{CancellationToken, FailureReporter};
use storage::lease::Leases;
use storage::outbox::HorizonHolder;
use storage::{StorageError, with_timeout};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::maintenance::first_waiting::FirstWaiting;
use crate::maintenance::health::Health;
use crate::metrics::{ByCause, Metrics};
use crate::ports::{LOOK_DEADLINE, OutboxConnection};
use crate::topics::routing_table::Topics;

const INTERVAL: Duration = Duration::from_secs(5);
/// Of the look at the first events. One that takes longer sees less.
const DEADLINE: Duration = LOOK_DEADLINE.saturating_mul(2);
/// Where entries that cannot be vacuumed make counting slow, it gets a tenth of the time at most.
const SHARE: u32 = 10;
/// Counts go no further, so that a look costs the same however much there is.
const COUNT_BOUND: i64 = 100_000;

/// See the module.
pub(crate) struct Observer {
    pub(crate) connection: Box<dyn OutboxConnection>,
    pub(crate) leases: Leases,
    pub(crate) topics: watch::Receiver<Topics>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
}

impl Observer {
    /// Looks every five seconds until `stop`.
    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        let mut reporter = FailureReporter::default();
        let (mut horizon, mut first) = (Horizon::default(), FirstWaiting::default());
        let mut due = Instant::now();
        loop {
            let started = Instant::now();
            if started >= due {
                due = started + self.fill_gauges(&mut horizon, &mut reporter).await;
            }
            let started = Instant::now();
            self.refresh_waiting_partitions(&mut first).await;
            // Never long after one another: `/readyz` rests on them.
            let pause = tokio::time::sleep(INTERVAL.max(started.elapsed()));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Returns when to do so again.
    async fn fill_gauges(
        &mut self,
        horizon: &mut Horizon,
        reporter: &mut FailureReporter,
    ) -> Duration {
        let started = Instant::now();
        // First, and by itself: the pipeline relies on it where the counts are slow for its sake.
        let looks = [self.look_at_horizon(horizon).await, self.count().await];
        if let Some(error) = looks.into_iter().find_map(Result::err) {
            reporter.failed(
                &error,
                |error| warn!(%error, "cannot read the backlog; its metrics are stale"),
            );
        } else {
            reporter.succeeded();
        }
        INTERVAL.max(started.elapsed() * SHARE)
    }

    /// Reports to the readiness endpoint which event has waited longest, if any has.
    async fn refresh_waiting_partitions(&mut self, first: &mut FirstWaiting) {
        let member = self.leases.member();
        let look = first.look(self.connection.as_mut(), member);
        if let Err(error) = with_timeout(DEADLINE, look).await {
            // What was seen to wait is believed to wait until a look says otherwise.
            debug!(%error, "cannot read the waiting partitions");
        }
        let longest = first.longest(Instant::now(), &self.topics.borrow());
        self.health.tell_progress(longest);
    }

    async fn count(&mut self) -> Result<(), StorageError> {
        let (backlog, held) = self.connection.counts(COUNT_BOUND).await?;
        let metrics = &self.metrics;
        metrics.backlog.set(backlog.pending);
        let oldest = backlog.oldest_seconds.unwrap_or_default();
        metrics.oldest_pending_age_seconds.set(oldest.max(0.0));
        let ByCause {
            dead,
            blocked,
            unavailable,
        } = &metrics.held;
        dead.set(held.dead);
        blocked.set(held.blocked);
        unavailable.set(held.unavailable);
        Ok(())
    }

    async fn look_at_horizon(&mut self, horizon: &mut Horizon) -> Result<(), StorageError> {
        let holders = self.connection.horizon_holders().await?;
        let (age, holder) = horizon.look(Instant::now(), &holders).unwrap_or_default();
        self.metrics
            .snapshot_horizon_age_seconds
            .set(age.as_secs_f64());
        let seconds = age.as_secs();
        match horizon.judge(age) {
            Some(HorizonAlert::TooOld) => warn!(
                holder,
                seconds,
                "an old snapshot keeps deleted entries of the outbox from being vacuumed; reads get slower"
            ),
            Some(HorizonAlert::Fine) => info!("the old snapshot is gone"),
            None => {}
        }
        Ok(())
    }
}

/// Remembers since when each holder of the snapshot horizon is in the way: of some Postgres does
/// not tell, and then it is as old as this relay knows it to be.
#[derive(Debug, Default)]
struct Horizon {
    first_seen: HashMap<(String, String), Instant>,
    too_old: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum HorizonAlert {
    TooOld,
    Fine,
}

impl Horizon {
    /// Older than this is worth a warning.
    const LIMIT: Duration = Duration::from_mins(5);

    /// The age of the oldest, and whose it is; `None` when nobody is in the way.
    fn look(&mut self, now: Instant, holders: &[HorizonHolder]) -> Option<(Duration, String)> {
        let id = |holder: &HorizonHolder| (holder.name.clone(), holder.transaction.clone());
        self.first_seen
            .retain(|known, _| holders.iter().any(|holder| id(holder) == *known));
        holders
            .iter()
            .map(|holder| {
                let known_for = now - *self.first_seen.entry(id(holder)).or_insert(now);
                let told = holder.seconds.unwrap_or_default().max(0.0);
                let told = Duration::try_from_secs_f64(told).unwrap_or_default();
                (told.max(known_for), holder.name.clone())
            })
            .max()
    }

    /// Says so once when the age crosses the limit, and once when it is below again.
    fn judge(&mut self, age: Duration) -> Option<HorizonAlert> {
        let too_old = age >= Self::LIMIT;
        if too_old == self.too_old {
            return None;
        }
        self.too_old = too_old;
        Some(if too_old {
            HorizonAlert::TooOld
        } else {
            HorizonAlert::Fine
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, transaction: &str, seconds: Option<f64>) -> HorizonHolder {
        HorizonHolder {
            name: name.to_owned(),
            transaction: transaction.to_owned(),
            seconds,
        }
    }

    #[test]
    fn the_oldest_holder_counts_by_what_is_told_or_seen() {
        let mut horizon = Horizon::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let age = |seen: Option<(Duration, String)>| seen.map(|(age, who)| (age.as_secs(), who));
        assert_eq!(age(horizon.look(at(0), &[])), None);
        let told = [
            holder("session", "7", Some(90.0)),
            holder("slot", "5", None),
        ];
        let seen = horizon.look(at(0), &told);
        assert_eq!(age(seen), Some((90, "session".to_owned())));
        let hidden = [holder("slot", "5", None)];
        let seen = horizon.look(at(60), &hidden);
        assert_eq!(age(seen), Some((60, "slot".to_owned())));
        // It made way: what it holds back now is young.
        let moved = [holder("slot", "9", None)];
        let seen = horizon.look(at(70), &moved);
        assert_eq!(age(seen), Some((0, "slot".to_owned())));
        assert_eq!(horizon.first_seen.len(), 1, "it forgets who has gone");
    }

    #[test]
    fn an_old_horizon_is_told_once() {
        let mut horizon = Horizon::default();
        let minutes = Duration::from_mins;
        let told: Vec<_> = [0, 4, 5, 6, 90, 2, 1, 7]
            .map(|age| horizon.judge(minutes(age)))
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(
            told,
            [
                HorizonAlert::TooOld,
                HorizonAlert::Fine,
                HorizonAlert::TooOld
            ]
        );
    }
}
