//! The consumer's metrics, by topic. The counters of each consumed topic begin at zero, once the
//! consumer has found Postgres and the schema.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use service::metrics::{Registrar, SecondsCounter, SecondsGauge};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabel {
    topic: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    topic: Arc<str>,
    partition: i32,
}

type Counters = Family<TopicLabel, Counter>;
type Histograms = Family<TopicLabel, Histogram>;

/// The metrics of all topics. Clones count into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    consumed: Counters,
    duplicates: Counters,
    dead: Counters,
    blocked: Counters,
    retries: Counters,
    fenced: Counters,
    cleaned: Counters,
    throttled_seconds: Family<TopicLabel, SecondsCounter>,
    partitions_owned: Family<TopicLabel, Gauge>,
    lag: Family<PartitionLabels, Gauge>,
    lag_seconds: Family<PartitionLabels, SecondsGauge>,
    batch_records: Histograms,
    batch_seconds: Histograms,
    event_seconds: Histograms,
}

/// The metrics of one topic. Clones count into the same ones.
#[derive(Debug, Clone)]
pub struct TopicMetrics {
    /// Events whose effect happened.
    pub consumed: Counter,
    /// Records of events that had been applied before.
    pub duplicates: Counter,
    /// Records that became dead letters.
    pub dead: Counter,
    /// Records blocked by a dead letter of their key.
    pub blocked: Counter,
    /// Batches tried again because a handler failed.
    pub retries: Counter,
    /// Batches dropped because the offset was moved or another owner came first, and partitions
    /// lost without being handed over.
    pub fenced: Counter,
    /// Inbox rows deleted after their retention.
    pub cleaned: Counter,
    /// How long Kafka's quotas delayed fetches.
    pub throttled_seconds: SecondsCounter,
    /// Partitions this process owns.
    pub partitions_owned: Gauge,
    /// Records per batch.
    pub batch_records: Histogram,
    /// Time of a batch's transaction.
    pub batch_seconds: Histogram,
    /// From the creation of an event to the commit of its effect.
    pub event_seconds: Histogram,
    topic: Arc<str>,
    lag: Family<PartitionLabels, Gauge>,
    lag_seconds: Family<PartitionLabels, SecondsGauge>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let mut to = Registrar::new(registry);
        Self {
            consumed: to.add("inbox_consumed", "Events whose effect happened"),
            duplicates: to.add(
                "inbox_duplicates",
                "Records of events that had been applied before",
            ),
            dead: to.add("inbox_dead", "Records that became dead letters"),
            blocked: to.add(
                "inbox_blocked",
                "Records blocked by a dead letter of their key",
            ),
            retries: to.add(
                "inbox_retries",
                "Batches tried again because a handler failed",
            ),
            fenced: to.add(
                "inbox_fenced",
                "Batches dropped because the offset was moved or another owner came first, and \
                 partitions lost without being handed over",
            ),
            cleaned: to.add("inbox_cleaned", "Inbox rows deleted after their retention"),
            throttled_seconds: to.add(
                "inbox_throttled_seconds",
                "How long Kafka's quotas delayed fetches",
            ),
            partitions_owned: to.add("inbox_partitions_owned", "Partitions this process owns"),
            lag: to.add(
                "inbox_lag",
                "Offsets still to be consumed, of each owned partition",
            ),
            lag_seconds: to.add(
                "inbox_lag_seconds",
                "Age of the oldest record known not to be applied, of each owned partition",
            ),
            batch_records: to.histograms("inbox_batch_records", "Records per batch", || {
                Histogram::new(exponential_buckets(1.0, 2.0, 14))
            }),
            batch_seconds: to.histograms(
                "inbox_batch_seconds",
                "Time of a batch's transaction",
                || Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            ),
            event_seconds: to.histograms(
                "inbox_event_seconds",
                "From the creation of an event (ce_time) to the commit of its effect",
                || Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            ),
        }
    }

    /// The metrics of `topic`, which exist from this call on.
    pub fn of(&self, topic: &str) -> TopicMetrics {
        let topic: Arc<str> = topic.into();
        let label = TopicLabel {
            topic: Arc::clone(&topic),
        };
        TopicMetrics {
            consumed: self.consumed.get_or_create(&label).clone(),
            duplicates: self.duplicates.get_or_create(&label).clone(),
            dead: self.dead.get_or_create(&label).clone(),
            blocked: self.blocked.get_or_create(&label).clone(),
            retries: self.retries.get_or_create(&label).clone(),
            fenced: self.fenced.get_or_create(&label).clone(),
            cleaned: self.cleaned.get_or_create(&label).clone(),
            throttled_seconds: self.throttled_seconds.get_or_create(&label).clone(),
            partitions_owned: self.partitions_owned.get_or_create(&label).clone(),
            batch_records: self.batch_records.get_or_create(&label).clone(),
            batch_seconds: self.batch_seconds.get_or_create(&label).clone(),
            event_seconds: self.event_seconds.get_or_create(&label).clone(),
            topic,
            lag: self.lag.clone(),
            lag_seconds: self.lag_seconds.clone(),
        }
    }
}

impl TopicMetrics {
    /// Shows how far behind an owned partition is: offsets still to be consumed, and the age of the
    /// oldest record known not to be applied, in seconds.
    pub fn set_lag(&self, partition: i32, offsets: i64, seconds: f64) {
        let labels = self.labels(partition);
        self.lag.get_or_create(&labels).set(offsets);
        self.lag_seconds.get_or_create(&labels).set(seconds);
    }

    /// Removes the lag of a partition that is no longer owned.
    pub fn remove_lag(&self, partition: i32) {
        let labels = self.labels(partition);
        self.lag.remove(&labels);
        self.lag_seconds.remove(&labels);
    }

    fn labels(&self, partition: i32) -> PartitionLabels {
        PartitionLabels {
            topic: Arc::clone(&self.topic),
            partition,
        }
    }
}
