//! Which partition an event goes to: what is known of the topics, and creating those that miss.
//!
//! Looked up by a task of its own, so that no event of a known topic waits for an unknown one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use messaging::{Cluster, Failure, KafkaError, partition_of};
use service::{Backoff, CancellationToken, Check, WorkerSettings};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

/// Partitions may be added to a topic at any time; this is how soon it is noticed, at the latest.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);
/// The same while a topic that events wait for is missing.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two log lines about the same missing topic.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Topics that events wait for, and when it was last logged that one cannot be created.
type Missing = BTreeMap<String, Option<Instant>>;

/// What is known of the topics. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topics(Arc<Known>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    /// The number of partitions of each topic.
    counts: HashMap<String, i32>,
    /// Names that Kafka says no topic can have, and what it said.
    impossible: HashMap<String, String>,
}

/// Where an event goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Partition(i32),
    /// Nothing is known of the topic (yet).
    Unknown,
    /// There can be no such topic.
    Impossible(&'a str),
}

impl Topics {
    pub(crate) fn route(&self, topic: &str, key: &str) -> Route<'_> {
        match (self.0.counts.get(topic), self.0.impossible.get(topic)) {
            (Some(partitions), _) if *partitions > 0 => {
                Route::Partition(partition_of(key.as_bytes(), *partitions))
            }
            (_, Some(error)) => Route::Impossible(error),
            (_, None) => Route::Unknown,
        }
    }

    /// Topics that had another number of partitions, or are gone.
    pub(crate) fn changed(&self, news: &Self) -> Vec<String> {
        self.0
            .counts
            .iter()
            .filter(|(topic, count)| news.0.counts.get(*topic) != Some(count))
            .map(|(topic, _)| topic.clone())
            .collect()
    }
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

    /// Waits for Kafka, creates those of the topics `first` that are missing, and keeps looking
    /// until `stop`.
    pub(crate) async fn run(mut self, first: &[&str], kafka: &Check, stop: &CancellationToken) {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
        let this = &self;
        let ready = service::until_ready(kafka, stop, backoff, "Kafka", || async move {
            this.refresh(&HashMap::new()).await
        });
        if ready.await.is_none() {
            return;
        }
        let mut impossible = HashMap::new();
        let mut missing: Missing = first
            .iter()
            .map(|topic| ((*topic).to_owned(), None))
            .collect();
        self.learn(&mut missing, &mut impossible).await;
        // Nothing waits for these yet: once must do.
        missing.clear();
        loop {
            let pause = if missing.is_empty() {
                REFRESH_INTERVAL
            } else {
                MISSING_INTERVAL
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                Some(topic) = self.wanted.recv() => {
                    missing.entry(topic).or_default();
                    while let Ok(topic) = self.wanted.try_recv() {
                        missing.entry(topic).or_default();
                    }
                }
            }
            self.learn(&mut missing, &mut impossible).await;
        }
    }

    /// Creates what is missing and looks up all there is. What could not be created stays missing.
    async fn learn(&self, missing: &mut Missing, impossible: &mut HashMap<String, String>) {
        for (topic, logged) in &mut *missing {
            match self.ensure(topic).await {
                Err(error) if error.failure() == Failure::Impossible => {
                    impossible.insert(topic.clone(), error.to_string());
                }
                Err(error) if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) => {
                    *logged = Some(Instant::now());
                    warn!(topic, %error, "cannot create a topic that is missing; trying again");
                }
                Ok(()) | Err(_) => {}
            }
        }
        match self.refresh(impossible).await {
            Ok(()) => {
                let known = &self.topics.borrow().0;
                missing.retain(|topic, _| {
                    !known.counts.contains_key(topic) && !known.impossible.contains_key(topic)
                });
            }
            Err(error) => warn!(%error, "cannot look up the topics"),
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

    async fn refresh(&self, impossible: &HashMap<String, String>) -> Result<(), KafkaError> {
        let known = Topics(Arc::new(Known {
            counts: self.cluster.partition_counts().await?,
            impossible: impossible.clone(),
        }));
        self.topics.send_if_modified(|before| {
            let changed = *before != known;
            *before = known;
            changed
        });
        Ok(())
    }
}
