//! Which partition an event goes to: what is known of the topics, and creating those that miss.
//!
//! Looked up by a task of its own, so that no event of a known topic waits for an unknown one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use messaging::{Cluster, KafkaError, partition_of};
use service::{Backoff, CancellationToken, Check, WorkerSettings};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// Partitions may be added to a topic at any time; this is how soon it is noticed, at the latest.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);

/// The number of partitions of each known topic.
pub(crate) type Topics = Arc<HashMap<String, i32>>;

/// The partition of a key, `None` while nothing is known of the topic.
pub(crate) fn route(topics: &Topics, topic: &str, key: &str) -> Option<i32> {
    let partitions = *topics.get(topic)?;
    (partitions > 0).then(|| partition_of(key.as_bytes(), partitions))
}

/// The relay's view of the topics.
pub(crate) struct Routes {
    pub(crate) topics: watch::Receiver<Topics>,
    pub(crate) wanted: mpsc::Sender<String>,
}

/// Keeps [`Routes`] up to date.
pub(crate) struct RouteKeeper {
    cluster: Cluster,
    settings: WorkerSettings,
    topics: watch::Sender<Topics>,
    wanted: mpsc::Receiver<String>,
}

impl RouteKeeper {
    pub(crate) fn new(cluster: Cluster, settings: WorkerSettings) -> (Self, Routes) {
        let (topics, view) = watch::channel(Topics::default());
        let (want, wanted) = mpsc::channel(16);
        let routes = Routes {
            topics: view,
            wanted: want,
        };
        let keeper = Self {
            cluster,
            settings,
            topics,
            wanted,
        };
        (keeper, routes)
    }

    /// Makes sure that `topics` exist and learns their partitions, waiting for Kafka if need be;
    /// then keeps looking until `stop`.
    pub(crate) async fn run(mut self, first: &[&str], kafka: &Check, stop: &CancellationToken) {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let this = &self;
        let ready = service::until_ready(kafka, stop, backoff, "Kafka", || async move {
            for topic in first {
                this.ensure(topic).await?;
            }
            this.refresh().await
        });
        if ready.await.is_none() {
            return;
        }
        loop {
            let mut missing = BTreeSet::new();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
                Some(topic) = self.wanted.recv() => {
                    missing.insert(topic);
                    while let Ok(topic) = self.wanted.try_recv() {
                        missing.insert(topic);
                    }
                }
            }
            for topic in &missing {
                if let Err(error) = self.ensure(topic).await {
                    warn!(topic, %error, "cannot create a topic that events wait for");
                }
            }
            if let Err(error) = self.refresh().await {
                warn!(%error, "cannot look up the topics");
            }
        }
    }

    async fn ensure(&self, topic: &str) -> Result<(), KafkaError> {
        let WorkerSettings {
            topic_partitions: partitions,
            replication_factor,
            ..
        } = self.settings;
        let created = self
            .cluster
            .ensure_topic(topic, partitions, replication_factor)
            .await?;
        if created {
            info!(topic, partitions, replication_factor, "created a topic");
        }
        Ok(())
    }

    async fn refresh(&self) -> Result<(), KafkaError> {
        let counts = Topics::new(self.cluster.partition_counts().await?);
        self.topics.send_if_modified(|known| {
            let changed = *known != counts;
            *known = counts;
            changed
        });
        Ok(())
    }
}
