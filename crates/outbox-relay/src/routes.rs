//! Which partition an event goes to: what is known of the topics, and creating those that miss.
//!
//! Looked up by a task of its own, so that no event of a known topic waits for an unknown one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use messaging::{Cluster, Failure, KafkaError, partition_of};
use service::{Backoff, CancellationToken, Check, Reminder, WorkerSettings};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::missing::{HIDDEN, Missing};

/// Partitions may be added to a topic at any time; this is how soon it is noticed, at the latest.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);
/// The same while a topic that events wait for is missing.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);
/// The same while one that was just created is not known to all of Kafka yet.
const CREATED_INTERVAL: Duration = Duration::from_millis(100);

/// What is known of the topics. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topics(Arc<Known>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    /// The number of partitions of each topic.
    counts: HashMap<String, i32>,
    /// Names that Kafka says no topic can have, and what it said.
    impossible: HashMap<String, String>,
    /// Topics that miss, and why.
    refused: HashMap<String, String>,
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

    /// Whether it is known where events of the topic go, or that they can go nowhere.
    pub(crate) fn knows(&self, topic: &str) -> bool {
        !matches!(self.route(topic, ""), Route::Unknown)
    }

    /// Why a topic misses, as far as Kafka said.
    pub(crate) fn refusal(&self, topic: &str) -> Option<&str> {
        self.0.refused.get(topic).map(String::as_str)
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
    /// Topics cannot be looked up.
    trouble: Reminder,
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
            trouble: Reminder::default(),
        };
        (keeper, routes)
    }

    /// Waits for Kafka, creates those of the topics `first` that are missing, and keeps looking
    /// until `stop`.
    pub(crate) async fn run(mut self, first: &[&str], kafka: &Check, stop: &CancellationToken) {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
        let this = &self;
        let ready = service::until_ready(kafka, stop, backoff, "Kafka", || async move {
            this.refresh(&HashMap::new(), HashMap::new()).await
        });
        if ready.await.is_none() {
            return;
        }
        let mut impossible = HashMap::new();
        let mut missing = Missing::default();
        for topic in first {
            missing.want((*topic).to_owned());
        }
        self.learn(&mut missing, &mut impossible).await;
        // Nothing waits for these yet: once must do.
        missing.forget(|_| true);
        let mut pause = REFRESH_INTERVAL;
        loop {
            let next = tokio::time::Instant::now() + pause;
            if stop
                .run_until_cancelled(self.until_due(&mut missing, next))
                .await
                .is_none()
            {
                return;
            }
            let created = self.learn(&mut missing, &mut impossible).await;
            pause = if missing.is_empty() {
                REFRESH_INTERVAL
            } else if created {
                CREATED_INTERVAL
            } else {
                MISSING_INTERVAL
            };
        }
    }

    /// Waits for the time of the next look, or for a topic that is not looked for yet. Events that
    /// go on waiting for a missing one say so with every read, which must not bring it forward.
    async fn until_due(&mut self, missing: &mut Missing, next: tokio::time::Instant) {
        let mut news = false;
        while !news {
            tokio::select! {
                () = sleep_until(next) => return,
                Some(topic) = self.wanted.recv() => news = missing.want(topic),
            }
            while let Ok(topic) = self.wanted.try_recv() {
                news |= missing.want(topic);
            }
        }
    }

    /// Creates what is missing and looks up all there is. What could not be created stays missing.
    /// Returns whether something was created.
    async fn learn(
        &mut self,
        missing: &mut Missing,
        impossible: &mut HashMap<String, String>,
    ) -> bool {
        let mut any_created = false;
        let mut existing = Vec::new();
        for topic in missing.due(Instant::now()) {
            match self.ensure(&topic).await {
                Ok(true) => any_created = true,
                Ok(false) => existing.push(topic),
                Err(error) if error.failure() == Failure::Impossible => {
                    impossible.insert(topic, error.to_string());
                }
                Err(error) => {
                    let reason =
                        format!("the topic does not exist and could not be created: {error}");
                    if missing.failed(&topic, reason, error.failure(), Instant::now()) {
                        warn!(topic, %error, "cannot create a topic that is missing; trying again");
                    } else {
                        debug!(topic, %error, "still cannot create a topic");
                    }
                }
            }
        }
        match self.refresh(impossible, missing.refusals()).await {
            Ok(()) => {
                self.trouble.end();
                let known = &self.topics.borrow().0;
                for topic in &existing {
                    if !known.counts.contains_key(topic) && missing.hidden(topic, Instant::now()) {
                        warn!(topic, "{HIDDEN}; looking again");
                    }
                }
                missing.forget(|topic| {
                    known.counts.contains_key(topic) || known.impossible.contains_key(topic)
                });
            }
            Err(error) if self.trouble.is_due(Instant::now()) => {
                warn!(%error, "cannot look up the topics; trying again");
            }
            Err(_) => {}
        }
        any_created
    }

    async fn ensure(&self, topic: &str) -> Result<bool, KafkaError> {
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
        Ok(created)
    }

    async fn refresh(
        &self,
        impossible: &HashMap<String, String>,
        refused: HashMap<String, String>,
    ) -> Result<(), KafkaError> {
        let known = Topics(Arc::new(Known {
            counts: self.cluster.partition_counts().await?,
            impossible: impossible.clone(),
            refused,
        }));
        self.topics.send_if_modified(|before| {
            let changed = *before != known;
            *before = known;
            changed
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::Source;
    use tokio::time::Instant;

    #[tokio::test]
    async fn only_a_topic_that_is_not_looked_for_yet_brings_the_next_look_forward() {
        let source = Source::from_pairs(Vec::<(&str, String)>::new()).expect("no settings");
        let settings = WorkerSettings::read(&mut source.reader());
        let cluster = Cluster::new("127.0.0.1:1".parse().expect("an address"));
        let (mut keeper, routes) = RouteKeeper::new(cluster, settings);
        let want = |topic: &str| routes.wanted.try_send(topic.to_owned()).expect("room");
        let mut missing = Missing::default();
        missing.want("known".to_owned());

        want("known");
        let next = Instant::now() + Duration::from_millis(200);
        keeper.until_due(&mut missing, next).await;
        assert!(Instant::now() >= next, "asked for before it was time");

        want("known");
        want("new");
        let next = Instant::now() + Duration::from_mins(1);
        keeper.until_due(&mut missing, next).await;
        assert!(Instant::now() < next);
        assert_eq!(missing.due(std::time::Instant::now()), ["known", "new"]);
    }
}
