//! What is in a Kafka topic, read back record by record.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result};
use messaging::{Cluster, IncomingRecord, OutgoingRecord, PartitionReader, PartitionWriter};

const FETCH_BYTES: i32 = 1 << 20;

/// A topic, read so far.
pub(crate) struct Topic {
    cluster: Cluster,
    name: String,
    partitions: Vec<Tail>,
    /// In the order of each partition.
    records: Vec<Placed>,
}

struct Tail {
    reader: PartitionReader,
    next: i64,
}

/// A record and the partition it lies in.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) partition: i32,
    pub(crate) record: IncomingRecord,
}

impl Placed {
    pub(crate) fn key(&self) -> &[u8] {
        self.record.key.as_deref().unwrap_or_default()
    }

    /// A header as text, empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> String {
        let value = self.record.headers.get(name).map(Vec::as_slice);
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }

    /// The same record to be written again.
    pub(crate) fn copy(&self) -> OutgoingRecord {
        OutgoingRecord {
            key: self.record.key.clone().unwrap_or_default(),
            value: self.record.value.clone(),
            headers: self.record.headers.clone(),
        }
    }
}

impl Topic {
    /// A topic that exists, without what is in it now.
    pub(crate) async fn open(cluster: &Cluster, name: &str) -> Result<Self> {
        let mut topic = Self::open_at_start(cluster, name).await?;
        for tail in &mut topic.partitions {
            tail.next = tail.reader.latest().await?;
        }
        Ok(topic)
    }

    /// A topic that exists, with all that is in it.
    pub(crate) async fn open_at_start(cluster: &Cluster, name: &str) -> Result<Self> {
        let counts = cluster.partition_counts().await?;
        let count = *counts
            .get(name)
            .with_context(|| format!("there is no topic {name}"))?;
        let mut partitions = Vec::new();
        for partition in 0..count {
            let mut reader = PartitionReader::new(cluster.clone(), name, partition);
            let next = reader.earliest().await?;
            partitions.push(Tail { reader, next });
        }
        Ok(Self {
            cluster: cluster.clone(),
            name: name.to_owned(),
            partitions,
            records: Vec::new(),
        })
    }

    pub(crate) fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).expect("Kafka counts partitions in 32 bits")
    }

    /// Reads what has come since, and returns all that was read from the beginning on.
    pub(crate) async fn read(&mut self) -> Result<&[Placed]> {
        for (partition, tail) in (0..).zip(&mut self.partitions) {
            loop {
                let fetched = tail
                    .reader
                    .fetch(tail.next, FETCH_BYTES, Duration::ZERO)
                    .await?;
                let Some(last) = fetched.records.last() else {
                    break;
                };
                tail.next = last.offset + 1;
                let records = fetched.records.into_iter();
                self.records
                    .extend(records.map(|record| Placed { partition, record }));
                if tail.next >= fetched.high_watermark {
                    break;
                }
            }
        }
        Ok(&self.records)
    }

    /// Appends a record and returns its offset.
    pub(crate) async fn write(&self, partition: i32, record: OutgoingRecord) -> Result<i64> {
        let mut writer = PartitionWriter::new(self.cluster.clone(), &self.name, partition);
        Ok(writer.produce(vec![record]).await?)
    }
}

/// The `ce_id`s of each key's records, copies left out, in the order of their first occurrence.
pub(crate) fn first_occurrences(records: &[Placed]) -> BTreeMap<Vec<u8>, Vec<String>> {
    let mut seen = HashSet::new();
    let mut by_key: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for placed in records {
        let id = placed.header("ce_id");
        if seen.insert(id.clone()) {
            by_key.entry(placed.key().to_vec()).or_default().push(id);
        }
    }
    by_key
}
