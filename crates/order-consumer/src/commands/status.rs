//! `status`: the group's offset, lag and owner in each partition of each topic.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use messaging::{Cluster, ErrorKind, PartitionReader};
use serde::Serialize;
use service::output::{self, print_json, table};
use storage::inbox::dead_letters::{self, Counts};
use storage::inbox::{self, Stream};
use storage::{Connection, lease};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Context;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    group: &'a str,
    /// Of all partitions.
    lag: i64,
    partitions: Vec<PartitionStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartitionStatus {
    topic: String,
    partition: i32,
    /// The offset to consume next; absent if the group has never consumed the partition.
    next_offset: Option<i64>,
    log_start: i64,
    log_end: i64,
    /// Offsets still to be consumed; absent if the partition does not have the next one: it stands
    /// still until you reset it.
    lag: Option<i64>,
    /// How long the oldest record that is not consumed has been in Kafka; absent if there is none.
    lag_seconds: Option<f64>,
    /// The live process that consumes it.
    owner: Option<Uuid>,
    dead: i64,
    blocked: i64,
}

pub(crate) async fn run(context: Context, json: bool) -> anyhow::Result<ExitCode> {
    let cluster = context.cluster()?;
    let mut conn = context.connect().await?;
    let topics = cluster.partition_counts().await?;
    let (mut partitions, mut missing) = (Vec::new(), Vec::new());
    for topic in context.topics(&[])? {
        match topics.get(&topic) {
            Some(count) => {
                let of_topic = of_topic(&context, &cluster, &mut conn, &topic, *count);
                partitions.extend(of_topic.await?);
            }
            None => missing.push(topic),
        }
    }
    print(&context, partitions, json)?;
    for topic in &missing {
        eprintln!("topic {topic} does not exist, or this client may not describe it");
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn of_topic(
    context: &Context,
    cluster: &Cluster,
    conn: &mut Connection,
    topic: &str,
    count: i32,
) -> anyhow::Result<Vec<PartitionStatus>> {
    let scope = Stream::lease_scope(context.group(), topic);
    let snapshot = lease::snapshot(conn, &scope).await?;
    let live: Vec<_> = snapshot.members.iter().map(|member| member.id).collect();
    let owners: HashMap<i32, Uuid> = snapshot
        .units
        .iter()
        .filter_map(|unit| Some((unit.number, unit.owner.filter(|id| live.contains(id))?)))
        .map(|(unit, owner)| (unit, owner.as_uuid()))
        .collect();
    let counts = dead_letters::counts(conn, context.group(), topic).await?;
    let counts: HashMap<i32, Counts> = counts.into_iter().map(|c| (c.partition, c)).collect();
    let mut partitions = Vec::new();
    for partition in 0..count {
        let stream = Stream {
            group: context.group().to_owned(),
            topic: topic.to_owned(),
            partition,
        };
        let progress = inbox::progress(conn, &stream).await?;
        let mut reader = PartitionReader::new(cluster.clone(), topic, partition);
        let (log_start, log_end) = (reader.earliest().await?, reader.latest().await?);
        let next_offset = progress.map(|progress| progress.next_offset);
        let from = next_offset.unwrap_or(log_start);
        let lag_seconds = waits(&mut reader, from, log_end).await?;
        let held = counts.get(&partition).copied().unwrap_or_default();
        partitions.push(PartitionStatus {
            topic: topic.to_owned(),
            partition,
            next_offset,
            log_start,
            log_end,
            lag: (log_start..=log_end)
                .contains(&from)
                .then_some(log_end - from),
            lag_seconds,
            owner: owners.get(&partition).copied(),
            dead: held.dead,
            blocked: held.blocked,
        });
    }
    Ok(partitions)
}

/// How long the first record from `offset` on has been in Kafka.
async fn waits(
    reader: &mut PartitionReader,
    offset: i64,
    log_end: i64,
) -> anyhow::Result<Option<f64>> {
    let mut next = offset;
    // Offsets without a record are skipped. Records after an open transaction are not visible.
    while next < log_end {
        let fetched = match reader.fetch(next, 1, Duration::ZERO).await {
            Ok(fetched) => fetched,
            Err(error) => match error.kind() {
                // The partition stands still here.
                ErrorKind::OutOfRange | ErrorKind::Configuration => return Ok(None),
                _ => return Err(error.into()),
            },
        };
        if let Some(first) = fetched.records.first() {
            let waits = OffsetDateTime::now_utc() - first.timestamp;
            return Ok(Some(waits.as_seconds_f64().max(0.0)));
        }
        if fetched.next_offset == next {
            break;
        }
        next = fetched.next_offset;
    }
    Ok(None)
}

fn print(context: &Context, partitions: Vec<PartitionStatus>, json: bool) -> anyhow::Result<()> {
    let lag = partitions
        .iter()
        .filter_map(|partition| partition.lag)
        .sum();
    if json {
        return Ok(print_json(&Status {
            group: context.group(),
            lag,
            partitions,
        })?);
    }
    let group = context.group();
    let dash = || "-".to_owned();
    let cells: Vec<[String; 10]> = partitions
        .into_iter()
        .map(|p| {
            [
                p.topic,
                p.partition.to_string(),
                p.next_offset.map_or_else(dash, |offset| offset.to_string()),
                p.log_start.to_string(),
                p.log_end.to_string(),
                p.lag
                    .map_or_else(|| "stands still".to_owned(), |lag| lag.to_string()),
                p.lag_seconds
                    .map_or_else(dash, |seconds| format!("{seconds:.0} s")),
                p.owner.map_or_else(dash, |owner| owner.to_string()),
                p.dead.to_string(),
                p.blocked.to_string(),
            ]
        })
        .collect();
    let heads = [
        "TOPIC",
        "PARTITION",
        "NEXT",
        "START",
        "END",
        "LAG",
        "OLDEST",
        "OWNER",
        "DEAD",
        "BLOCKED",
    ];
    let table = table(heads, &cells);
    let text = format!("group {group}, lag {lag}\n{table}");
    Ok(output::print(&text)?)
}
