//! What the consumer counts. Every counter exists from the start, at zero.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Of a gauge there is one of per owned partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    pub partition: i32,
}

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
    /// Batches tried again because a handler failed.
    pub retries: Counter,
    /// Batches that came too late: the partition had another owner.
    pub fenced: Counter,
    /// Inbox rows removed after their time.
    pub cleaned: Counter,
    /// For how long quotas of Kafka delayed fetches.
    pub throttled: Counter<f64, AtomicU64>,
    /// Partitions owned now.
    pub partitions_owned: Gauge,
    /// Offsets still to be consumed.
    pub lag: Family<PartitionLabel, Gauge>,
    /// Age of the oldest record known not to be applied.
    pub lag_seconds: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    /// Records per batch.
    pub batch_records: Histogram,
    /// Time of a batch's transaction.
    pub batch_seconds: Histogram,
    /// From the creation of an event to the commit of its effect.
    pub event_seconds: Histogram,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            consumed: Counter::default(),
            duplicates: Counter::default(),
            dead: Counter::default(),
            parked: Counter::default(),
            retries: Counter::default(),
            fenced: Counter::default(),
            cleaned: Counter::default(),
            throttled: Counter::default(),
            partitions_owned: Gauge::default(),
            lag: Family::default(),
            lag_seconds: Family::default(),
            batch_records: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            batch_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            event_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
        };
        metrics.register_counters(registry);
        metrics.register_others(registry);
        metrics
    }

    fn register_counters(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "inbox_consumed",
                "Events whose effect happened",
                &self.consumed,
            ),
            (
                "inbox_duplicates",
                "Records of events that had been applied before",
                &self.duplicates,
            ),
            (
                "inbox_dead",
                "Records that can never be applied",
                &self.dead,
            ),
            (
                "inbox_parked",
                "Records that wait behind a dead one of their key",
                &self.parked,
            ),
            (
                "inbox_retries",
                "Batches tried again because a handler failed",
                &self.retries,
            ),
            (
                "inbox_fenced",
                "Batches dropped because the partition had another owner",
                &self.fenced,
            ),
            (
                "inbox_cleaned",
                "Inbox rows removed after their time",
                &self.cleaned,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn register_others(&self, registry: &mut Registry) {
        registry.register(
            "inbox_throttled_seconds",
            "Time for which quotas of Kafka delayed fetches",
            self.throttled.clone(),
        );
        registry.register(
            "inbox_partitions_owned",
            "Partitions this process owns",
            self.partitions_owned.clone(),
        );
        registry.register(
            "inbox_lag",
            "Offsets still to be consumed, of each owned partition",
            self.lag.clone(),
        );
        registry.register(
            "inbox_lag_seconds",
            "Age of the oldest record known not to be applied, of each owned partition",
            self.lag_seconds.clone(),
        );
        for (name, help, histogram) in [
            (
                "inbox_batch_records",
                "Records per batch",
                &self.batch_records,
            ),
            (
                "inbox_batch_seconds",
                "Time of a batch's transaction",
                &self.batch_seconds,
            ),
            (
                "inbox_event_seconds",
                "From the creation of an event (ce_time) to the commit of its effect",
                &self.event_seconds,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }
}
