//! A consumer, from its ports to its topics.

use std::sync::Arc;
use std::time::Duration;

use service::{CancellationToken, Tracer, WorkerSettings};
use tokio::task::{JoinError, JoinSet};

use crate::health::Health;
use crate::metrics::Metrics;
use crate::ports::{InboxFactory, RecordSource};
use crate::registry::Registry;
use crate::topic::{TopicConsumer, TopicError};

/// A consumer and all it needs, wired but not running.
pub struct Assembly {
    /// Whose offsets and inbox these are.
    pub group: String,
    /// How long inbox rows stay at least.
    pub retention: Duration,
    pub worker: WorkerSettings,
    /// What is consumed, and how it is applied.
    pub registry: Registry,
    pub inboxes: Arc<dyn InboxFactory>,
    pub records: Arc<dyn RecordSource>,
    pub metrics: Metrics,
    pub tracer: Tracer,
    pub health: Health,
}

/// Why a consumer ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    #[error("{topic}: {source}")]
    Topic { topic: String, source: TopicError },
    #[error("the consumer of a topic ended unexpectedly: {0}")]
    Died(JoinError),
}

impl Assembly {
    /// Consumes every registered topic until `stop`. Outages are waited out.
    ///
    /// # Errors
    /// When a task died, which is a defect.
    ///
    /// # Cancellation
    /// Dropped midway no leases are given back; the task that renews them goes on.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ConsumerError> {
        // The schema has been found there.
        self.health.postgres.clear("");
        let starting = self.registry.topics().into_iter();
        let kafka = &self.health.kafka;
        kafka.update(starting.map(|topic| (topic, Some("starting"))));
        let (work, mut topics) = (stop.child_token(), JoinSet::new());
        for topic in self.registry.topics() {
            let consumer = TopicConsumer {
                topic: topic.clone(),
                group: self.group.clone(),
                retention: self.retention,
                worker: self.worker,
                registry: self.registry.clone(),
                inboxes: Arc::clone(&self.inboxes),
                records: Arc::clone(&self.records),
                metrics: self.metrics.of(&topic),
                tracer: self.tracer.clone(),
                health: self.health.clone(),
            };
            let running = consumer.run(work.clone());
            topics.spawn(async move {
                let ended = running.await;
                ended.map_err(|source| ConsumerError::Topic { topic, source })
            });
        }
        // When one ends, for whatever reason, the others give their leases back and end too.
        let mut outcome = Ok(());
        while let Some(ended) = topics.join_next().await {
            work.cancel();
            let ended = ended.map_err(ConsumerError::Died).and_then(|ended| ended);
            outcome = outcome.and(ended);
        }
        outcome
    }
}
