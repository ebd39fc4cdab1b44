//! The way into the cluster: made when first needed, made anew after it failed.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use rskafka::BackoffConfig;
use rskafka::client::error::{Error as ClientError, ProtocolError};
use rskafka::client::partition::{PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};

use crate::error::{Failure, KafkaError, within};
use crate::topic_name::check_topic_name;

/// For every request but produce and fetch.
const DEADLINE: Duration = Duration::from_secs(10);

/// An attempt to connect that has not been answered for this long gets another one beside it.
const ANOTHER_AFTER: Duration = Duration::from_secs(2);

/// Largest frame taken from a broker. Bounds what one fetch can cost in memory.
const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// Bootstrap brokers: `host:port`, comma-separated, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brokers(Vec<String>);

/// A text that is no list of brokers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be host:port, or several separated by commas; {0:?} is not")]
pub struct InvalidBrokers(String);

impl FromStr for Brokers {
    type Err = InvalidBrokers;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let brokers: Vec<String> = text
            .split(',')
            .map(|broker| broker.trim().to_owned())
            .collect();
        let sound = |broker: &str| {
            broker
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match brokers.iter().find(|broker| !sound(broker)) {
            Some(broken) => Err(InvalidBrokers(broken.clone())),
            None => Ok(Self(brokers)),
        }
    }
}

impl Brokers {
    /// Each as `host:port`.
    pub fn addresses(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// A Kafka cluster. Clones share one connection for metadata.
#[derive(Clone)]
pub struct Cluster {
    brokers: Brokers,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    client: Mutex<Option<Arc<Client>>>,
    /// Locked by whoever connects, for all who want to meanwhile; the latest failure, and when it
    /// was.
    connecting: tokio::sync::Mutex<Option<(Instant, KafkaError)>>,
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.brokers)
    }
}

impl Cluster {
    /// Connects to nothing yet.
    pub fn new(brokers: Brokers) -> Self {
        Self {
            brokers,
            shared: Arc::default(),
        }
    }

    /// Where to ask first.
    pub fn brokers(&self) -> &Brokers {
        &self.brokers
    }

    async fn client(&self) -> Result<Arc<Client>, KafkaError> {
        let wanted = Instant::now();
        if let Some(client) = &*self.shared.client() {
            return Ok(Arc::clone(client));
        }
        let mut failed = self.shared.connecting.lock().await;
        if let Some(client) = &*self.shared.client() {
            return Ok(Arc::clone(client));
        }
        // What somebody else waited for in vain meanwhile, nobody else waits for: while a broker is
        // mute the deadlines of all would add up.
        if let Some((at, error)) = &*failed
            && *at > wanted
        {
            return Err(error.clone());
        }
        match connect(|| self.builder().build()).await {
            Ok(client) => {
                let client = Arc::new(client);
                *self.shared.client() = Some(Arc::clone(&client));
                Ok(client)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn builder(&self) -> ClientBuilder {
        // A deadline of nothing makes the client's own retries end at the first failure; retrying
        // is the caller's business, which knows what it means to wait.
        let no_retries = BackoffConfig {
            deadline: Some(Duration::ZERO),
            ..BackoffConfig::default()
        };
        ClientBuilder::new(self.brokers.0.clone())
            .client_id("transactional-outbox")
            .max_message_size(MAX_FRAME_BYTES)
            .backoff_config(no_retries)
    }

    /// Lets the next request connect anew. Called after every failure: a connection to a mute
    /// broker looks healthy, and metadata of before an outage is stale.
    fn forget(&self, failed: &Arc<Client>) {
        let mut shared = self.shared.client();
        if shared
            .as_ref()
            .is_some_and(|client| Arc::ptr_eq(client, failed))
        {
            *shared = None;
        }
    }

    /// Like [`Self::forget`], for whoever found the broker mute on a connection of its own.
    pub(crate) fn reconnect_after(&self, error: &KafkaError) {
        if matches!(error, KafkaError::Deadline(_)) {
            *self.shared.client() = None;
        }
    }

    fn forget_on_error<T>(
        &self,
        client: &Arc<Client>,
        outcome: Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        if outcome.is_err() {
            self.forget(client);
        }
        outcome
    }

    /// The number of partitions of each topic.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError> {
        let client = self.client().await?;
        let topics = within(DEADLINE, client.list_topics()).await;
        let topics = self.forget_on_error(&client, topics)?;
        Ok(topics
            .into_iter()
            .map(|topic| {
                let count = i32::try_from(topic.partitions.len())
                    .expect("Kafka counts partitions in 32 bits");
                (topic.name, count)
            })
            .collect())
    }

    /// Creates a topic unless it exists; returns whether it did create it. Needs no right to create
    /// where it exists and may be seen.
    ///
    /// # Errors
    /// As with [`Self::create_topic`].
    pub async fn ensure_topic(
        &self,
        name: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<bool, KafkaError> {
        check_topic_name(name)?;
        if self.partition_counts().await?.contains_key(name) {
            return Ok(false);
        }
        self.create_topic(name, partitions, replication_factor)
            .await
    }

    /// Creates a topic; false when it exists.
    ///
    /// # Errors
    /// When no broker answers, the cluster refuses (rights, more replicas than brokers), or there can
    /// be no such topic.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<bool, KafkaError> {
        check_topic_name(name)?;
        let client = self.client().await?;
        let created = match client.controller_client() {
            Ok(controller) => {
                let broker_timeout_ms = 5_000;
                within(
                    DEADLINE,
                    controller.create_topic(
                        name,
                        partitions,
                        replication_factor,
                        broker_timeout_ms,
                    ),
                )
                .await
            }
            Err(error) => Err(error.into()),
        };
        match created {
            Ok(()) => Ok(true),
            Err(KafkaError::Broker {
                code: ProtocolError::TopicAlreadyExists,
                ..
            }) => Ok(false),
            Err(error) => {
                let error = error.of_creation();
                // Whoever judged the topic answers, and will.
                if error.failure() == Failure::Transient {
                    self.forget(&client);
                }
                Err(error)
            }
        }
    }

    pub(crate) async fn partition(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<PartitionClient, KafkaError> {
        let client = self.client().await?;
        let connected =
            connect(|| client.partition_client(topic, partition, UnknownTopicHandling::Error));
        self.forget_on_error(&client, connected.await)
    }
}

/// Connects under the deadline; the first outcome counts. Another attempt begins every now and
/// then: a connection that a broker was mute on may stay so after new ones work.
async fn connect<T, Attempt>(attempt: impl Fn() -> Attempt) -> Result<T, KafkaError>
where
    Attempt: Future<Output = Result<T, ClientError>>,
{
    let mut another = tokio::time::interval(ANOTHER_AFTER);
    let mut attempts = FuturesUnordered::new();
    let first_outcome = async {
        loop {
            tokio::select! {
                _ = another.tick() => attempts.push(attempt()),
                Some(outcome) = attempts.next() => return outcome,
            }
        }
    };
    within(DEADLINE, first_outcome).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_ports() {
        let brokers: Brokers = "a:9092, [::1]:9093".parse().unwrap();
        assert_eq!(brokers.to_string(), "a:9092,[::1]:9093");
        for wrong in ["", "a", "a:", ":1", "a:9092,", "a:x", "a:99999"] {
            assert!(wrong.parse::<Brokers>().is_err(), "{wrong:?}");
        }
    }
}
