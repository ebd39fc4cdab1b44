//! Where each owned partition stands: lag for the metrics, and whether it has come to a halt.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use service::ReadinessIssues;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::metrics::TopicMetrics;

/// A partition with lag that has not moved for this long is stalled.
const STALL: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProgress {
    pub next_offset: i64,
    pub high_watermark: i64,
    /// Nothing from here on is delivered yet: a transaction is open.
    pub stable_offset: i64,
    /// When the oldest record known not to be applied was written.
    pub oldest: Option<OffsetDateTime>,
}

impl PartitionProgress {
    /// Offsets up to the end; not all of them need be records.
    pub fn lag(&self) -> i64 {
        (self.high_watermark - self.next_offset).max(0)
    }
}

#[derive(Debug)]
struct Watched {
    partition_progress: PartitionProgress,
    /// When it last moved or had no lag.
    moved_at: Instant,
    trouble: Option<String>,
}

/// Of all owned partitions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct TopicProgress(Arc<Mutex<BTreeMap<i32, Watched>>>);

impl TopicProgress {
    /// A partition stands here now.
    pub fn update(&self, partition: i32, partition_progress: PartitionProgress, now: Instant) {
        let mut all = self.lock();
        let watched = all.entry(partition).or_insert_with(|| Watched {
            partition_progress: partition_progress.clone(),
            moved_at: now,
            trouble: None,
        });
        let moved = watched.partition_progress.next_offset != partition_progress.next_offset;
        if moved || watched.partition_progress.lag() == 0 {
            watched.moved_at = now;
        }
        // Whatever stood in the way of a batch is over when the next is there.
        watched.trouble = None;
        watched.partition_progress = partition_progress;
    }

    /// A partition begins here, of which nothing else is known yet.
    pub fn begin(&self, partition: i32, next_offset: i64, now: Instant) {
        self.lock().entry(partition).or_insert_with(|| Watched {
            partition_progress: PartitionProgress {
                next_offset,
                high_watermark: next_offset,
                stable_offset: next_offset,
                oldest: None,
            },
            moved_at: now,
            trouble: None,
        });
    }

    /// Records up to here are there by now.
    pub fn grown(&self, partition: i32, high_watermark: i64) {
        if let Some(watched) = self.lock().get_mut(&partition) {
            let partition_progress = &mut watched.partition_progress;
            partition_progress.high_watermark =
                partition_progress.high_watermark.max(high_watermark);
        }
    }

    /// Why it does not move, in case it goes on like that.
    pub fn trouble(&self, partition: i32, reason: String) {
        if let Some(watched) = self.lock().get_mut(&partition) {
            watched.trouble = Some(reason);
        }
    }

    /// The partition is not ours any more.
    pub fn remove(&self, partition: i32) {
        self.lock().remove(&partition);
    }

    /// The partitions that have lag and have not moved for `limit`, and why.
    pub fn stalled(&self, now: Instant, limit: Duration) -> Vec<(i32, String)> {
        let all = self.lock();
        all.iter()
            .filter(|(_, watched)| {
                watched.partition_progress.lag() > 0
                    && now.duration_since(watched.moved_at) >= limit
            })
            .map(|(partition, watched)| (*partition, reason(watched, now)))
            .collect()
    }

    /// By partition: lag in offsets, and in seconds.
    fn lags(&self, time: OffsetDateTime, now: Instant) -> Vec<(i32, i64, f64)> {
        let all = self.lock();
        all.iter()
            .map(|(partition, watched)| {
                let lag = watched.partition_progress.lag();
                let seconds = match watched.partition_progress.oldest {
                    _ if lag == 0 => 0.0,
                    Some(oldest) => (time - oldest).as_seconds_f64().max(0.0),
                    // There for as long at least, though none was delivered.
                    None => now.duration_since(watched.moved_at).as_secs_f64(),
                };
                (*partition, lag, seconds)
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason(watched: &Watched, now: Instant) -> String {
    let PartitionProgress {
        next_offset,
        stable_offset,
        ..
    } = watched.partition_progress;
    let seconds = now.duration_since(watched.moved_at).as_secs();
    let lag = watched.partition_progress.lag();
    let why = match &watched.trouble {
        Some(trouble) => format!(": {trouble}"),
        None if stable_offset <= next_offset => {
            ": a transaction of another producer is open there".to_owned()
        }
        None => String::new(),
    };
    format!("lag {lag}, no progress from offset {next_offset} for {seconds} s{why}")
}

/// Keeps metrics and readiness up to date until it is dropped.
pub(crate) async fn watch(
    topic: &str,
    topic_progress: &TopicProgress,
    metrics: &TopicMetrics,
    issues: &ReadinessIssues,
) -> Infallible {
    let mut shown: Vec<i32> = Vec::new();
    let mut stalled_before: Vec<i32> = Vec::new();
    loop {
        let now = Instant::now();
        let lags = topic_progress.lags(OffsetDateTime::now_utc(), now);
        show(metrics, &lags, &shown);
        shown = lags.into_iter().map(|(partition, ..)| partition).collect();
        let stalled = topic_progress.stalled(now, STALL);
        for partition in &stalled_before {
            if !stalled.iter().any(|(still, _)| still == partition) {
                issues.clear(format_args!("{topic}/{partition}"));
            }
        }
        for (partition, reason) in &stalled {
            issues.report(format_args!("{topic}/{partition}"), reason);
        }
        if stalled.is_empty() {
            issues.clear("");
        }
        stalled_before = stalled
            .into_iter()
            .map(|(partition, _)| partition)
            .collect();
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Sets the gauges; of partitions that were `shown` and are ours no more they go.
fn show(metrics: &TopicMetrics, lags: &[(i32, i64, f64)], shown: &[i32]) {
    for &partition in shown {
        if !lags.iter().any(|(still, ..)| *still == partition) {
            metrics.remove_lag(partition);
        }
    }
    for &(partition, lag, seconds) in lags {
        metrics.set_lag(partition, lag, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next_offset: i64, high_watermark: i64) -> PartitionProgress {
        PartitionProgress {
            next_offset,
            high_watermark,
            stable_offset: high_watermark,
            oldest: None,
        }
    }

    #[test]
    fn only_lag_without_a_step_is_a_stall() {
        let topic_progress = TopicProgress::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        topic_progress.update(0, at(5, 5), start);
        topic_progress.update(1, at(5, 9), start);
        assert_eq!(topic_progress.stalled(after(29), STALL), []);
        topic_progress.trouble(1, "the handler fails".to_owned());
        let stalled = topic_progress.stalled(after(30), STALL);
        let reason = "lag 4, no progress from offset 5 for 30 s: the handler fails";
        assert_eq!(stalled, [(1, reason.to_owned())]);
        // Lag that has just appeared, and a step.
        topic_progress.update(0, at(5, 6), after(30));
        topic_progress.update(1, at(6, 9), after(31));
        assert_eq!(topic_progress.stalled(after(59), STALL), []);
        assert_eq!(topic_progress.stalled(after(60), STALL).len(), 1);
        topic_progress.remove(0);
        assert_eq!(topic_progress.stalled(after(60), STALL), []);
    }

    #[test]
    fn an_open_transaction_is_named() {
        let topic_progress = TopicProgress::default();
        let start = Instant::now();
        let mut partition_progress = at(5, 9);
        partition_progress.stable_offset = 5;
        topic_progress.update(0, partition_progress.clone(), start);
        // What is over does not hide it.
        topic_progress.trouble(0, "Kafka is away".to_owned());
        topic_progress.update(0, partition_progress, start + STALL / 2);
        let stalled = topic_progress.stalled(start + STALL, STALL);
        assert!(stalled[0].1.contains("a transaction"), "{stalled:?}");
    }

    #[test]
    fn lag_has_an_age_also_when_nothing_is_delivered() {
        let topic_progress = TopicProgress::default();
        let (start, time) = (Instant::now(), OffsetDateTime::now_utc());
        let later = |seconds| (time + seconds, start + seconds);
        let seconds = |(time, now)| topic_progress.lags(time, now)[0].2;
        topic_progress.update(0, at(5, 5), start);
        assert_eq!(
            seconds(later(Duration::from_secs(7))).to_bits(),
            0.0_f64.to_bits()
        );
        topic_progress.update(0, at(5, 9), start + Duration::from_secs(7));
        let hidden = seconds(later(Duration::from_secs(10)));
        assert!((2.9..3.1).contains(&hidden), "{hidden}");
        let mut delivered = at(5, 9);
        delivered.oldest = Some(time);
        topic_progress.update(0, delivered, start + Duration::from_secs(11));
        let known = seconds(later(Duration::from_secs(12)));
        assert!((11.9..12.1).contains(&known), "{known}");
    }
}
