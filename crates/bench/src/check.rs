//! Whether a run did what it claims: every event in Kafka once, in order within its key.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use messaging::{Cluster, PartitionReader};

use crate::seed::PARTITIONS;

/// Where each partition of a topic ends.
pub(crate) async fn ends(cluster: &Cluster, topic: &str) -> Result<Vec<i64>> {
    let ends = (0..PARTITIONS).map(async |partition| {
        let mut reader = PartitionReader::new(cluster.clone(), topic, partition);
        Ok::<_, anyhow::Error>(reader.latest().await?)
    });
    try_join_all(ends).await
}

/// Reads what came behind `begin` and compares it with the database's events.
pub(crate) async fn published(
    cluster: &Cluster,
    topic: &str,
    begin: &[i64],
    sql: &tokio_postgres::Client,
    events: i64,
) -> Result<()> {
    let ends = ends(cluster, topic).await?;
    let places: HashMap<String, i64> = sql
        .query("select event_id::text, id from outbox_event", &[])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let mut last_of_key: HashMap<Vec<u8>, i64> = HashMap::new();
    let mut seen: HashSet<i64> = HashSet::new();
    for (partition, (begin, end)) in (0..).zip(begin.iter().zip(&ends)) {
        let mut reader = PartitionReader::new(cluster.clone(), topic, partition);
        let mut next = *begin;
        while next < *end {
            let fetched = reader
                .fetch(next, 8_000_000, Duration::from_secs(5))
                .await?;
            for record in fetched.records {
                next = record.offset + 1;
                let id = std::str::from_utf8(&record.headers["ce_id"])?;
                let id = places[id];
                seen.insert(id);
                let key = record.key.unwrap_or_default();
                let before = last_of_key.insert(key, id);
                ensure!(before < Some(id), "event {id} came after {before:?}");
            }
        }
    }
    let distinct = i64::try_from(seen.len())?;
    ensure!(distinct == events, "{distinct} of {events} events in Kafka");
    let records: i64 = begin
        .iter()
        .zip(&ends)
        .map(|(begin, end)| end - begin)
        .sum();
    ensure!(records == events, "{records} records for {events} events");
    Ok(())
}
