//! Kafka behind the port.

use std::collections::HashMap;

use async_trait::async_trait;
use messaging::{Cluster, KafkaError, OutgoingRecord, PartitionWriter};

use crate::ports::{Producer, RecordWriter};

#[async_trait]
impl Producer for Cluster {
    async fn partition_counts(&self) -> Result<HashMap<String, i32>, KafkaError> {
        self.partition_counts().await
    }

    async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<bool, KafkaError> {
        self.create_topic(topic, partitions, replication_factor)
            .await
    }

    fn writer(&self, topic: &str, partition: i32) -> Box<dyn RecordWriter> {
        Box::new(PartitionWriter::new(self.clone(), topic, partition))
    }
}

#[async_trait]
impl RecordWriter for PartitionWriter {
    async fn produce(&mut self, records: Vec<OutgoingRecord>) -> Result<i64, KafkaError> {
        self.produce(records).await
    }

    async fn close_when_idle(&mut self) {
        self.close_when_idle().await;
    }
}
