//! Consumes one topic: its leases, a consumer for each partition that is owned, and what runs beside
//! them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use messaging::KafkaError;
use service::retry::bounds;
use service::{CancellationToken, Tracer, WorkerSettings, until_ready};
use storage::inbox::Stream;
use storage::lease::{LeasedWorkError, Leases, run_leased};
use tokio::task::JoinError;
use tracing::info;

use crate::assignment::{StartConsumer, follow};
use crate::health::Health;
use crate::membership::{Membership, PartitionCount};
use crate::metrics::TopicMetrics;
use crate::partition::progress::{self, TopicProgress};
use crate::partition::{PartitionConsumer, PartitionContext};
use crate::ports::{InboxFactory, RecordSource};
use crate::registry::Registry;
use crate::retention::{Cleaner, Pass};

/// Partitions may be added at any time; this is how soon they are taken up, at the latest.
const GROWTH_INTERVAL: Duration = Duration::from_secs(20);
/// And how soon Kafka is asked again when it did not answer.
const GROWTH_RETRY: Duration = Duration::from_secs(2);

/// How long a topic may take to show once it exists: this many looks, this far apart.
const SHOW_ATTEMPTS: usize = 10;
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// Why the consumer of a topic ended early: the consumer of a partition, or the task that renews
/// leases, died.
pub(crate) type TopicError = LeasedWorkError<JoinError>;

/// See the module.
pub(crate) struct TopicConsumer {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) retention: Duration,
    pub(crate) worker: WorkerSettings,
    pub(crate) registry: Registry,
    pub(crate) inboxes: Arc<dyn InboxFactory>,
    pub(crate) records: Arc<dyn RecordSource>,
    pub(crate) metrics: TopicMetrics,
    pub(crate) tracer: Tracer,
    pub(crate) health: Health,
}

impl TopicConsumer {
    /// Consumes until `stop`. Outages are waited out.
    ///
    /// # Errors
    /// When a task died, which is a defect.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), TopicError> {
        let issue = self.health.kafka.issue(&self.topic);
        let ready = until_ready(&issue, &stop, bounds::START, "Kafka", || {
            self.partition_count()
        });
        let Some(partitions) = ready.await else {
            return Ok(());
        };
        let Self { topic, inboxes, .. } = &self;
        let scope = Stream::lease_scope(&self.group, topic);
        let (keeper, leases) = inboxes.leases(&scope, self.worker.lease_ttl, partitions);
        let topic_progress = TopicProgress::default();
        let cleaner = Cleaner {
            group: self.group.clone(),
            topic: topic.clone(),
            inboxes: Arc::clone(inboxes),
            records: Arc::clone(&self.records),
            leases: leases.clone(),
            metrics: self.metrics.clone(),
            retention: self.retention,
            pass: Pass::default(),
        };
        let count = PartitionCount::new(partitions);
        let membership = Membership {
            inbox: inboxes.background(),
            scope,
            member: leases.member(),
            topic: topic.clone(),
            partitions: count.clone(),
            postgres: self.health.postgres.clone(),
            progress: self.health.progress.clone(),
        };
        let partitions = Partitions {
            of: &self,
            leases: leases.clone(),
            topic_progress: topic_progress.clone(),
        };
        let owned = |count| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.partitions_owned.set(count);
        };
        let background = Box::pin(async {
            tokio::join!(
                self.watch_growth(&leases, &count),
                progress::watch(topic, &topic_progress, &self.metrics, &self.health.progress),
                cleaner.run(),
                membership.watch(),
            )
        });
        let consuming = |stop| follow(leases.clone(), partitions, owned, stop);
        run_leased(keeper, &stop, consuming, background).await
    }

    /// How many partitions the topic has; creates it when it is missing.
    async fn partition_count(&self) -> Result<i32, KafkaError> {
        let WorkerSettings {
            topic_partitions,
            replication_factor,
            ..
        } = self.worker;
        let topic = self.topic.as_str();
        let created = self
            .records
            .ensure_topic(topic, topic_partitions, replication_factor)
            .await?;
        if created {
            info!(
                topic,
                topic_partitions, replication_factor, "created a topic"
            );
        }
        if created {
            // It may not show yet; its count is known all the same.
            return Ok(topic_partitions);
        }
        // One that another process has just created shows a moment later.
        for _ in 0..SHOW_ATTEMPTS {
            if let Some(count) = self.records.partition_counts().await?.get(topic) {
                return Ok(*count);
            }
            tokio::time::sleep(SHOW_INTERVAL).await;
        }
        Err(KafkaError::hidden_topic())
    }

    /// Looks until it is dropped.
    async fn watch_growth(&self, leases: &Leases, partitions: &PartitionCount) -> Infallible {
        let mut pause = GROWTH_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            // A process that owns no partition has no other way to see that Kafka is away.
            match self.partition_count().await {
                Ok(count) => {
                    self.health.kafka.clear(&self.topic);
                    leases.resize(count).await;
                    partitions.set(count);
                    pause = GROWTH_INTERVAL;
                }
                Err(error) => {
                    self.health.kafka.report(&self.topic, &error);
                    pause = GROWTH_RETRY;
                }
            }
        }
    }
}

/// Starts the consumers of partitions.
struct Partitions<'a> {
    of: &'a TopicConsumer,
    leases: Leases,
    topic_progress: TopicProgress,
}

impl StartConsumer for Partitions<'_> {
    fn start(
        &self,
        partition: i32,
        epoch: i64,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let TopicConsumer {
            topic,
            group,
            retention: _,
            worker,
            registry,
            inboxes,
            records,
            metrics,
            tracer,
            health,
        } = self.of;
        let consumer = PartitionConsumer::new(PartitionContext {
            stream: Stream {
                group: group.clone(),
                topic: topic.clone(),
                partition,
            },
            inbox: inboxes.leased(worker.lease_ttl),
            records: Arc::clone(records),
            leases: self.leases.clone(),
            epoch,
            registry: registry.clone(),
            metrics: metrics.clone(),
            tracer: tracer.clone(),
            topic_progress: self.topic_progress.clone(),
            postgres: health.postgres.clone(),
            kafka: health.kafka.clone(),
        });
        consumer.run(stop)
    }
}
