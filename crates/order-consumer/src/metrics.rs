//! What the consumer counts. Every counter exists from the start, at zero.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Clones count into the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Events whose effect happened.
    pub consumed: Counter,
    /// Records of events that had been applied before.
    pub duplicates: Counter,
    /// Records that can never be applied.
    pub dead: Counter,
    /// Records that wait behind a dead one.
    pub parked: Counter,
    /// Batches that came too late: the partition had another owner.
    pub fenced: Counter,
    /// Partitions owned now.
    pub partitions_owned: Gauge,
    /// Records per batch.
    pub batch_records: Histogram,
    /// Time of a batch's transaction.
    pub batch_seconds: Histogram,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            consumed: Counter::default(),
            duplicates: Counter::default(),
            dead: Counter::default(),
            parked: Counter::default(),
            fenced: Counter::default(),
            partitions_owned: Gauge::default(),
            batch_records: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            batch_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
        };
        let counters = [
            (
                "inbox_consumed",
                "Events whose effect happened",
                &metrics.consumed,
            ),
            (
                "inbox_duplicates",
                "Records of events that had been applied before",
                &metrics.duplicates,
            ),
            (
                "inbox_dead",
                "Records that can never be applied",
                &metrics.dead,
            ),
            (
                "inbox_parked",
                "Records that wait behind a dead one of their key",
                &metrics.parked,
            ),
            (
                "inbox_fenced",
                "Batches dropped because the partition had another owner",
                &metrics.fenced,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "inbox_partitions_owned",
            "Partitions this process owns",
            metrics.partitions_owned.clone(),
        );
        registry.register(
            "inbox_batch_records",
            "Records per batch",
            metrics.batch_records.clone(),
        );
        registry.register(
            "inbox_batch_seconds",
            "Time of a batch's transaction",
            metrics.batch_seconds.clone(),
        );
        metrics
    }
}
