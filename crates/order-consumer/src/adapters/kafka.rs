//! [`RecordSource`] on a Kafka cluster.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use messaging::{Cluster, Fetched, KafkaError, PartitionReader};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::ports::{RecordReader, RecordSource};

#[async_trait]
impl RecordSource for Cluster {
    async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError> {
        Self::partition_counts(self).await
    }

    async fn ensure_topic(
        &self,
        topic: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<bool, KafkaError> {
        Self::ensure_topic(self, topic, partitions, replication_factor).await
    }

    fn reader(&self, topic: &str, partition: i32) -> Box<dyn RecordReader> {
        Box::new(PartitionReader::new(self.clone(), topic, partition))
    }
}

#[async_trait]
impl RecordReader for PartitionReader {
    async fn topic_id(&mut self) -> Result<Option<Uuid>, KafkaError> {
        Self::topic_id(self).await
    }

    async fn fetch(
        &mut self,
        offset: i64,
        max_bytes: i32,
        max_wait: Duration,
    ) -> Result<Fetched, KafkaError> {
        Self::fetch(self, offset, max_bytes, max_wait).await
    }

    async fn earliest(&mut self) -> Result<i64, KafkaError> {
        Self::earliest(self).await
    }

    async fn latest(&mut self) -> Result<i64, KafkaError> {
        Self::latest(self).await
    }

    async fn first_younger_than(&mut self, age: Duration) -> Result<i64, KafkaError> {
        self.first_since(OffsetDateTime::now_utc() - age).await
    }
}
