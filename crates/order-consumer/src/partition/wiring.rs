//! What a partition's consumer is made of.

use messaging::{Cluster, PartitionReader};
use service::{Problems, Tracer};
use storage::inbox::Stream;
use storage::lease::Leases;
use storage::{Database, Session};

use crate::apply::effects::Effects;
use crate::metrics::Metrics;
use crate::partition::progress::Standings;

/// See the module.
pub struct Wiring {
    pub stream: Stream,
    pub database: Database,
    pub session: Session,
    pub cluster: Cluster,
    pub leases: Leases,
    /// The epoch the partition is owned under; the consumer ends with it.
    pub epoch: i64,
    pub effects: Effects,
    pub metrics: Metrics,
    pub tracer: Tracer,
    pub standings: Standings,
    pub postgres: Problems,
    pub kafka: Problems,
}

impl Wiring {
    /// Whether the partition is still ours, under this epoch.
    pub(crate) fn owned(&self) -> bool {
        self.leases.epoch(self.stream.partition) == Some(self.epoch)
    }

    pub(crate) fn reader(&self) -> PartitionReader {
        let Stream {
            topic, partition, ..
        } = &self.stream;
        PartitionReader::new(self.cluster.clone(), topic, *partition)
    }

    /// For people: topic and partition.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.stream.topic, self.stream.partition)
    }
}
