//! Which partition an event goes to: what is known of the topics, and creating those that miss.
//!
//! Looked up by a task of its own, so that no event of a known topic waits for an unknown one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use messaging::{ErrorKind, HIDDEN_TOPIC, KafkaError};
use service::retry::bounds;
use service::{CancellationToken, Check, FailureReporter, WorkerSettings};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::ports::Producer;
use crate::topics::missing::Missing;
use crate::topics::rejected::RejectedTopics;
use crate::topics::routing_table::Topics;

/// Partitions may be added to a topic at any time; this is how soon it is noticed, at the latest.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);
/// The same while a topic that events wait for is missing.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);
/// The same while one that was just created is not known to all of Kafka yet.
const CREATED_INTERVAL: Duration = Duration::from_millis(100);

/// The relay's view of the topics.
pub(crate) struct Routes {
    pub(crate) topics: watch::Receiver<Topics>,
    pub(crate) wanted: mpsc::Sender<String>,
}

/// What a look at the topics brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learned {
    NothingNew,
    /// Something was created, and may not be known to all of Kafka yet.
    Created,
    /// Kafka did not say.
    NoAnswer,
}

/// Keeps [`Routes`] up to date.
pub(crate) struct RouteKeeper {
    producer: Arc<dyn Producer>,
    settings: WorkerSettings,
    topics: watch::Sender<Topics>,
    wanted: mpsc::Receiver<String>,
    /// Topics cannot be looked up.
    failures: FailureReporter,
}

impl RouteKeeper {
    pub(crate) fn new(producer: Arc<dyn Producer>, settings: WorkerSettings) -> (Self, Routes) {
        let (topics, view) = watch::channel(Topics::default());
        let (want, wanted) = mpsc::channel(16);
        let routes = Routes {
            topics: view,
            wanted: want,
        };
        let keeper = Self {
            producer,
            settings,
            topics,
            wanted,
            failures: FailureReporter::default(),
        };
        (keeper, routes)
    }

    /// Waits for Kafka, and keeps looking until `stop`.
    pub(crate) async fn run(mut self, kafka: &Check, stop: &CancellationToken) {
        let this = &self;
        let ready = service::until_ready(kafka, stop, bounds::BESIDE, "Kafka", || async move {
            let counts = this.producer.partition_counts().await?;
            this.publish(counts, &RejectedTopics::default(), &Missing::default());
            Ok::<(), KafkaError>(())
        });
        if ready.await.is_none() {
            return;
        }
        let mut rejected = RejectedTopics::default();
        let mut missing = Missing::default();
        let mut pause = REFRESH_INTERVAL;
        loop {
            let next = Instant::now() + pause;
            if stop
                .run_until_cancelled(self.until_due(&mut missing, next))
                .await
                .is_none()
            {
                return;
            }
            let learned = self.learn(&mut missing, &mut rejected).await;
            pause = match learned {
                _ if missing.is_empty() => REFRESH_INTERVAL,
                Learned::NoAnswer => MISSING_INTERVAL,
                _ if missing.any_untried() => Duration::ZERO,
                Learned::Created => CREATED_INTERVAL,
                Learned::NothingNew => MISSING_INTERVAL,
            };
        }
    }

    /// Waits for the time of the next look, or for a topic that is not looked for yet. Events that
    /// go on waiting for a missing one say so with every read, which must not bring it forward.
    async fn until_due(&mut self, missing: &mut Missing, next: Instant) {
        let mut news = false;
        while !news {
            tokio::select! {
                () = sleep_until(next) => return,
                Some(topic) = self.wanted.recv() => news = missing.want(&topic),
            }
            while let Ok(topic) = self.wanted.try_recv() {
                news |= missing.want(&topic);
            }
        }
    }

    /// Looks up all there is and creates what is missing, a few at a time. What could not be created
    /// stays missing.
    async fn learn(&mut self, missing: &mut Missing, rejected: &mut RejectedTopics) -> Learned {
        rejected.forget_old(Instant::now(), REFRESH_INTERVAL);
        let mut counts = match self.look_up().await {
            Ok(counts) => counts,
            Err(error) => {
                missing.all_failed(&format!("unknown whether the topic exists: {error}"));
                self.topics
                    .send_if_modified(|topics| topics.refuse(missing.refusals()));
                return Learned::NoAnswer;
            }
        };
        missing.forget(|topic| counts.contains_key(topic));
        let mut learned = Learned::NothingNew;
        let mut existing = Vec::new();
        for topic in missing.due(Instant::now()) {
            match self.create(&topic).await {
                Ok(true) => learned = Learned::Created,
                Ok(false) => existing.push(topic),
                Err(error) if error.kind() == ErrorKind::Impossible => {
                    rejected.add(topic, error.to_string(), Instant::now());
                }
                Err(error) => {
                    let reason =
                        format!("the topic does not exist and could not be created: {error}");
                    if missing.failed(&topic, reason, error.kind(), Instant::now()) {
                        warn!(topic, %error, "cannot create a missing topic; trying again");
                    } else {
                        debug!(topic, %error, "still cannot create a missing topic");
                    }
                    // The others would wait for nothing, one deadline after the other.
                    if matches!(error, KafkaError::Connection(_) | KafkaError::Deadline(_)) {
                        learned = Learned::NoAnswer;
                        break;
                    }
                }
            }
        }
        if (learned == Learned::Created || !existing.is_empty())
            && let Ok(now) = self.look_up().await
        {
            counts = now;
            for topic in &existing {
                if !counts.contains_key(topic) && missing.hidden(topic, Instant::now()) {
                    warn!(topic, "{HIDDEN_TOPIC}; trying again");
                }
            }
        }
        missing.forget(|topic| counts.contains_key(topic) || rejected.contains(topic));
        self.publish(counts, rejected, missing);
        learned
    }

    async fn look_up(&mut self) -> Result<HashMap<String, i32>, KafkaError> {
        let counts = self.producer.partition_counts().await;
        match &counts {
            Ok(_) => {
                self.failures.succeeded();
            }
            Err(error) => self.failures.failed(
                error,
                |error| warn!(%error, "cannot look up the topics; trying again"),
            ),
        }
        counts
    }

    async fn create(&self, topic: &str) -> Result<bool, KafkaError> {
        let WorkerSettings {
            topic_partitions: partitions,
            replication_factor,
            ..
        } = self.settings;
        let created = self
            .producer
            .create_topic(topic, partitions, replication_factor)
            .await?;
        if created {
            info!(topic, partitions, replication_factor, "created a topic");
        }
        Ok(created)
    }

    fn publish(&self, counts: HashMap<String, i32>, rejected: &RejectedTopics, missing: &Missing) {
        let known = Topics::new(counts, rejected.reasons(), missing.refusals());
        self.topics.send_if_modified(|before| {
            let changed = *before != known;
            *before = known;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::Source;

    fn keeper() -> (RouteKeeper, Routes) {
        let source = Source::from_pairs(Vec::<(&str, String)>::new()).expect("no settings");
        let settings = WorkerSettings::read(&mut source.reader());
        // Nobody is there.
        let cluster = messaging::Cluster::new("127.0.0.1:1".parse().expect("an address"));
        RouteKeeper::new(Arc::new(cluster), settings)
    }

    #[tokio::test]
    async fn no_topic_is_said_to_miss_while_kafka_does_not_answer() {
        let (mut keeper, routes) = keeper();
        let mut missing = Missing::default();
        missing.want("t");
        let learned = keeper
            .learn(&mut missing, &mut RejectedTopics::default())
            .await;
        assert_eq!(learned, Learned::NoAnswer);
        let topics = routes.topics.borrow();
        let reason = topics.refusal("t").expect("a reason");
        assert!(
            reason.starts_with("unknown whether the topic exists"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn only_a_topic_that_is_not_looked_for_yet_brings_the_next_look_forward() {
        let (mut keeper, routes) = keeper();
        let want = |topic: &str| routes.wanted.try_send(topic.to_owned()).expect("room");
        let mut missing = Missing::default();
        missing.want("known");

        want("known");
        let next = Instant::now() + Duration::from_millis(200);
        keeper.until_due(&mut missing, next).await;
        assert!(Instant::now() >= next, "asked for before it was time");

        want("known");
        want("new");
        let next = Instant::now() + Duration::from_mins(1);
        keeper.until_due(&mut missing, next).await;
        assert!(Instant::now() < next);
        assert_eq!(missing.due(Instant::now()), ["known", "new"]);
    }
}
