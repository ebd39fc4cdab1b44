//! Kafka as clients see it: topics with ids, partitions with leaders, and records that stay in order.

use std::collections::BTreeMap;
use std::time::Duration;

use messaging::{ErrorCode, KafkaError, OutgoingRecord};
use storage::inbox::Progress;
use uuid::Uuid;

use crate::database::OffsetKey;

/// The cluster.
#[derive(Debug)]
pub struct Kafka {
    pub brokers: usize,
    pub topics: BTreeMap<String, Topic>,
    last_topic: u128,
    /// Every topic that ever was, as it was when it was deleted.
    pub deleted: Vec<(String, Topic)>,
}

/// A topic, from its creation to its deletion.
#[derive(Debug, Clone)]
pub struct Topic {
    pub id: Uuid,
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone)]
pub struct Partition {
    pub leader: usize,
    /// Of the first record that is still there.
    pub log_start: i64,
    /// All that were ever appended, from offset 0 on.
    pub records: Vec<Record>,
}

/// A record as it lies in a partition.
#[derive(Debug, Clone)]
pub struct Record {
    pub at: Duration,
    pub record: OutgoingRecord,
}

impl Partition {
    /// Where the next record goes.
    pub fn end(&self) -> i64 {
        i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }
}

impl Kafka {
    pub fn new(brokers: usize) -> Self {
        Self {
            brokers,
            topics: BTreeMap::new(),
            last_topic: 0,
            deleted: Vec::new(),
        }
    }

    /// Creates a topic; false if it exists.
    pub fn create(&mut self, name: &str, partitions: i32) -> bool {
        if self.topics.contains_key(name) {
            return false;
        }
        self.last_topic += 1;
        let mut topic = Topic {
            id: Uuid::from_u128(self.last_topic),
            partitions: Vec::new(),
        };
        topic.grow(partitions, self.brokers);
        self.topics.insert(name.to_owned(), topic);
        true
    }

    /// Adds partitions up to `count`.
    pub fn grow(&mut self, name: &str, count: i32) {
        let brokers = self.brokers;
        if let Some(topic) = self.topics.get_mut(name) {
            topic.grow(count, brokers);
        }
    }

    pub fn delete(&mut self, name: &str) {
        if let Some(topic) = self.topics.remove(name) {
            self.deleted.push((name.to_owned(), topic));
        }
    }

    /// Deletes what a group has consumed of a topic.
    pub fn trim<'a>(
        &mut self,
        name: &str,
        offsets: impl Iterator<Item = (&'a OffsetKey, &'a Progress)>,
    ) {
        let Some(topic) = self.topics.get_mut(name) else {
            return;
        };
        for ((_, of, partition), progress) in offsets {
            let index = usize::try_from(*partition).unwrap_or(usize::MAX);
            if of == name
                && progress.topic_id == Some(topic.id)
                && let Some(log) = topic.partitions.get_mut(index)
            {
                log.log_start = log.log_start.max(progress.next_offset);
            }
        }
    }

    /// # Errors
    /// As a broker answers for a partition that does not exist.
    pub fn partition(&mut self, topic: &str, partition: i32) -> Result<&mut Partition, KafkaError> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let topic = self.topics.get_mut(topic);
        topic
            .and_then(|topic| topic.partitions.get_mut(index))
            .ok_or_else(|| refusal(ErrorCode::UnknownTopicOrPartition))
    }
}

impl Topic {
    fn grow(&mut self, count: i32, brokers: usize) {
        let count = usize::try_from(count).unwrap_or_default();
        while self.partitions.len() < count {
            self.partitions.push(Partition {
                leader: self.partitions.len() % brokers,
                log_start: 0,
                records: Vec::new(),
            });
        }
    }
}

/// What a broker answers.
pub fn refusal(code: ErrorCode) -> KafkaError {
    KafkaError::Broker { code, detail: None }
}
