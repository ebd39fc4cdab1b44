//! The parts alone: the same reads of event rows and the same produce requests, in one process,
//! with no moves, no leases and no metrics. What the relay is measured against.

use std::time::{Duration, Instant};

use anyhow::Result;
use domain::{Content, OutboxEvent};
use messaging::{Cluster, PartitionWriter, envelope, partition_of};
use outbox_relay::batch_size;
use storage::outbox::read_events_after;
use storage::{Database, Session};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::seed::PARTITIONS;

/// As many as the relay reads at once.
pub(crate) const PAGE: i64 = 16 * 512;

/// Reads all events and produces them; the time from the first read to the last acknowledgement.
pub(crate) async fn read_and_produce(database: &Database, cluster: &Cluster) -> Result<Duration> {
    let started = Instant::now();
    let mut senders = JoinSet::new();
    let mut queues = Vec::new();
    for partition in 0..PARTITIONS {
        let (queue, events) = mpsc::channel(usize::try_from(PAGE)?);
        queues.push(queue);
        senders.spawn(produce(cluster.clone(), partition, events));
    }
    let (pages, mut read) = mpsc::channel(1);
    let database = database.clone();
    let reader = tokio::spawn(async move { read_pages(&database, pages).await });
    while let Some(page) = read.recv().await {
        for event in page {
            let partition = partition_of(event.key.as_bytes(), PARTITIONS);
            queues[usize::try_from(partition)?].send(event).await?;
        }
    }
    drop(queues);
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    reader.await??;
    Ok(started.elapsed())
}

/// Reads all events and drops them.
pub(crate) async fn read_only(database: &Database) -> Result<Duration> {
    let started = Instant::now();
    let (pages, mut read) = mpsc::channel(1);
    let database = database.clone();
    let reader = tokio::spawn(async move { read_pages(&database, pages).await });
    while read.recv().await.is_some() {}
    reader.await??;
    Ok(started.elapsed())
}

async fn read_pages(database: &Database, pages: mpsc::Sender<Vec<OutboxEvent>>) -> Result<()> {
    let session = Session::long_running("bench").with_index_plans();
    let mut conn = database.connect(&session).await?;
    let mut after = 0;
    loop {
        let page = read_events_after(&mut conn, after, PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        after = *last;
        pages
            .send(page.into_iter().map(|(_, event)| event).collect())
            .await?;
    }
}

async fn produce(
    cluster: Cluster,
    partition: i32,
    mut events: mpsc::Receiver<OutboxEvent>,
) -> Result<()> {
    let mut waiting = std::collections::VecDeque::new();
    let mut writer: Option<PartitionWriter> = None;
    loop {
        if waiting.is_empty() {
            match events.recv().await {
                Some(event) => waiting.push_back(event),
                None => return Ok(()),
            }
        }
        while let Ok(event) = events.try_recv() {
            waiting.push_back(event);
        }
        let topic = waiting.front().map(|event| event.topic.clone());
        let writer = writer.get_or_insert_with(|| {
            PartitionWriter::new(cluster.clone(), topic.unwrap_or_default(), partition)
        });
        let sizes = waiting.iter().map(envelope::encoded_size);
        let count = batch_size::take(sizes, batch_size::MAX_REQUEST_BYTES);
        let records = waiting
            .drain(..count)
            .map(|e| envelope::encode(&e))
            .collect();
        writer.produce(records).await?;
    }
}

/// Produces `events` records made in memory.
pub(crate) async fn produce_only(
    cluster: &Cluster,
    topic: &str,
    events: i64,
    bytes: usize,
) -> Result<Duration> {
    let mut senders = JoinSet::new();
    let started = Instant::now();
    let share = events / i64::from(PARTITIONS);
    for partition in 0..PARTITIONS {
        let event = OutboxEvent {
            event_id: domain::EventId::generate(),
            topic: topic.to_owned(),
            key: "x".repeat(36),
            event_type: "OrderCreated".to_owned(),
            schema_version: 1,
            source: "/order-api".to_owned(),
            content: Some(Content::json("x".repeat(bytes.saturating_sub(36)))),
            headers: std::collections::BTreeMap::new(),
            created_at: time::OffsetDateTime::now_utc(),
        };
        let mut writer = PartitionWriter::new(cluster.clone(), topic, partition);
        senders.spawn(async move {
            let mut left = usize::try_from(share)?;
            let size = envelope::encoded_size(&event);
            while left > 0 {
                let queued = std::iter::repeat_n(size, left.min(1_400));
                let count = batch_size::take(queued, batch_size::MAX_REQUEST_BYTES);
                let records = (0..count).map(|_| envelope::encode(&event)).collect();
                writer.produce(records).await?;
                left -= count;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(started.elapsed())
}
