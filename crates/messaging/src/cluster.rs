//! The connection to the cluster: made when first needed, and again after it failed.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rskafka::BackoffConfig;
use rskafka::client::error::ProtocolError;
use rskafka::client::{Client, ClientBuilder};

use crate::brokers::{Address, Brokers};
use crate::connection::{BROKERS, Connection, Leader, Metadata};
use crate::error::{ErrorKind, KafkaError, within};
use crate::topic_name::check_topic_name;

/// For every request but produce and fetch.
const DEADLINE: Duration = Duration::from_secs(10);

/// Largest frame taken from a broker. Bounds what one fetch can cost in memory.
const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// A Kafka cluster. Clones share one connection for metadata.
#[derive(Clone)]
pub struct Cluster {
    brokers: Brokers,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    client: Mutex<Option<Arc<Client>>>,
    /// All brokers of the cluster, as the last answer named them.
    learned: Mutex<Vec<Address>>,
    /// How often somebody began to look for a broker that answers.
    rounds: AtomicUsize,
    /// Locked while a task connects, so that others wait for it. Holds the latest failure and its
    /// time.
    connecting: tokio::sync::Mutex<Option<(Instant, KafkaError)>>,
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learned(&self) -> MutexGuard<'_, Vec<Address>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
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
        match self.connect().await {
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

    /// A client that begins with a broker that answers.
    async fn connect(&self) -> Result<Client, KafkaError> {
        BROKERS
            .run(&self.candidates(), |broker| async move {
                let mut connection = Connection::open(&broker).await?;
                self.learn(&connection.metadata(None).await?);
                let builder = client_builder(&connection.peer()?);
                builder.build().await.map_err(KafkaError::from)
            })
            .await
    }

    /// A connection to the leader of a partition, of our own.
    pub(crate) async fn leader(&self, topic: &str, partition: i32) -> Result<Leader, KafkaError> {
        let learn = |metadata: &Metadata| self.learn(metadata);
        Leader::find(&self.candidates(), topic, partition, learn).await
    }

    /// Brokers to ask, those that are named and those that others have named. Each time another one
    /// is the first: what one says may be of no use, though it answers.
    fn candidates(&self) -> Vec<Address> {
        let mut candidates = self.brokers.addresses().to_vec();
        for address in &*self.shared.learned() {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        let round = self.shared.rounds.fetch_add(1, Ordering::Relaxed);
        let first = round % candidates.len().max(1);
        candidates.rotate_left(first);
        candidates
    }

    fn learn(&self, metadata: &Metadata) {
        // One that has just begun may know none.
        if !metadata.brokers.is_empty() {
            let brokers = metadata.brokers.iter();
            *self.shared.learned() = brokers.map(|(_, address)| address.clone()).collect();
        }
    }

    /// Makes the next request connect again. Called after every failure: a connection to a mute
    /// broker looks healthy, and metadata from before an outage is stale.
    fn forget(&self, failed: &Arc<Client>) {
        let mut shared = self.shared.client();
        if shared
            .as_ref()
            .is_some_and(|client| Arc::ptr_eq(client, failed))
        {
            *shared = None;
        }
    }

    /// Like [`Self::forget`], after a broker was mute on a connection of the caller's own.
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
                if error.kind() == ErrorKind::Transient {
                    self.forget(&client);
                }
                Err(error)
            }
        }
    }
}

fn client_builder(broker: &Address) -> ClientBuilder {
    // A deadline of nothing makes the client's own retries end at the first failure; retrying is
    // the caller's business, which knows what it means to wait.
    let no_retries = BackoffConfig {
        deadline: Some(Duration::ZERO),
        ..BackoffConfig::default()
    };
    ClientBuilder::new(vec![broker.to_string()])
        .client_id("transactional-outbox")
        .max_message_size(MAX_FRAME_BYTES)
        .backoff_config(no_retries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_broker_and_those_learned_have_their_turn() {
        let address = |port| Address {
            host: "a".to_owned(),
            port,
        };
        let cluster = Cluster::new("a:1,a:2".parse().unwrap());
        let first = || cluster.candidates()[0].port;
        assert_eq!([first(), first(), first()], [1, 2, 1]);
        cluster.learn(&Metadata::of_brokers(vec![
            (0, address(2)),
            (1, address(3)),
        ]));
        let mut firsts = [first(), first(), first()];
        firsts.sort_unstable();
        assert_eq!(firsts, [1, 2, 3]);
        cluster.learn(&Metadata::of_brokers(Vec::new()));
        assert_eq!(cluster.candidates().len(), 3);
    }
}
