//! What the relay counts. Every counter exists from the start, at zero.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Clones count into the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Events moved to published.
    pub published: Counter,
    /// Produce requests that failed and were tried again.
    pub produce_failures: Counter,
    /// Pending ids whose event is gone.
    pub orphans: Counter,
    /// Slots owned now.
    pub slots_owned: Gauge,
    /// Events read and not yet settled.
    pub in_flight: Gauge,
    /// Wake-ups by a notification.
    pub wake_ups: Counter,
    pub read_seconds: Histogram,
    pub produce_seconds: Histogram,
    pub settle_seconds: Histogram,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let metrics = Self {
            published: Counter::default(),
            produce_failures: Counter::default(),
            orphans: Counter::default(),
            slots_owned: Gauge::default(),
            in_flight: Gauge::default(),
            wake_ups: Counter::default(),
            read_seconds: seconds(),
            produce_seconds: seconds(),
            settle_seconds: seconds(),
        };
        let counters = [
            (
                "outbox_published",
                "Events acknowledged by Kafka and recorded as published",
                &metrics.published,
            ),
            (
                "outbox_produce_failures",
                "Produce requests that failed and were tried again",
                &metrics.produce_failures,
            ),
            (
                "outbox_orphans",
                "Reads of a pending id whose event does not exist",
                &metrics.orphans,
            ),
            (
                "outbox_wake_ups",
                "Reads started by a notification",
                &metrics.wake_ups,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "outbox_slots_owned",
            "Slots this process owns",
            metrics.slots_owned.clone(),
        );
        registry.register(
            "outbox_in_flight",
            "Events read and not yet settled",
            metrics.in_flight.clone(),
        );
        let histograms = [
            (
                "outbox_read_seconds",
                "Time of a read of pending events",
                &metrics.read_seconds,
            ),
            (
                "outbox_produce_seconds",
                "Time of a produce request",
                &metrics.produce_seconds,
            ),
            (
                "outbox_settle_seconds",
                "Time of a settling statement",
                &metrics.settle_seconds,
            ),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
        metrics
    }
}
