//! What a partition's consumer is made of.

use std::sync::Arc;

use service::{ReadinessIssues, Tracer};
use storage::inbox::Stream;
use storage::lease::Leases;

use crate::metrics::TopicMetrics;
use crate::partition::progress::TopicProgress;
use crate::ports::{Inbox, RecordReader, RecordSource};
use crate::registry::Registry;

/// See the module.
pub struct PartitionContext {
    pub stream: Stream,
    pub inbox: Box<dyn Inbox>,
    pub records: Arc<dyn RecordSource>,
    pub leases: Leases,
    /// The epoch the partition is owned under; the consumer ends with it.
    pub epoch: i64,
    pub registry: Registry,
    pub metrics: TopicMetrics,
    pub tracer: Tracer,
    pub topic_progress: TopicProgress,
    pub postgres: ReadinessIssues,
    pub kafka: ReadinessIssues,
}

impl PartitionContext {
    /// Whether the partition is still ours, under this epoch.
    pub(crate) fn owned(&self) -> bool {
        self.leases.epoch(self.stream.partition) == Some(self.epoch)
    }

    pub(crate) fn reader(&self) -> Box<dyn RecordReader> {
        self.records
            .reader(&self.stream.topic, self.stream.partition)
    }

    /// For people: topic and partition.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.stream.topic, self.stream.partition)
    }
}
