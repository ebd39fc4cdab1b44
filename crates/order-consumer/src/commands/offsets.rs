//! `offsets reset`: sets where a group continues.

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use messaging::PartitionReader;
use service::output::{print, table};
use storage::inbox::Stream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Context;
use crate::ports::Inbox;

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Set the next offset. Records read again have no second effect; skipped records have none
    Reset(Reset),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Reset {
    /// The next offset: earliest, latest, a number, or that of the first record since a time such
    /// as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "OFFSET")]
    to: Target,
    #[command(flatten)]
    topics: Topics,
    /// Only this partition; needs exactly one --topic; may be given several times. Default: all
    /// partitions
    #[arg(
        long = "partition",
        value_name = "NUMBER",
        conflicts_with = "all_topics"
    )]
    partitions: Vec<i32>,
    /// Show what would happen and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct Topics {
    /// This topic; may be given several times
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// All consumed topics
    #[arg(long)]
    all_topics: bool,
}

/// Where the group continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Earliest,
    Latest,
    Offset(i64),
    Since(OffsetDateTime),
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Self::Since)
            .map_err(|_| "must be earliest, latest, an offset or an RFC 3339 time")
    }
}

/// The next offset of a partition.
struct Move {
    stream: Stream,
    next_offset: i64,
    topic_id: Option<Uuid>,
}

pub(crate) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Reset(reset) = command;
    let cluster = context.cluster()?;
    let mut inbox = context.inbox();
    let topics = context.topics(&reset.topics.topics)?;
    if topics.len() > 1 && !reset.partitions.is_empty() {
        bail!("--partition needs exactly one --topic");
    }
    let counts = cluster.partition_counts().await?;
    let mut moves = Vec::new();
    for topic in topics {
        let Some(&count) = counts.get(&topic) else {
            bail!("topic {topic} does not exist, or this client may not describe it");
        };
        let partitions = if reset.partitions.is_empty() {
            (0..count).collect()
        } else {
            reset.partitions.clone()
        };
        for partition in partitions {
            if !(0..count).contains(&partition) {
                bail!(
                    "topic {topic} has no partition {partition}; it has {count} partitions, from 0"
                );
            }
            let mut reader = PartitionReader::new(cluster.clone(), &topic, partition);
            let look = async {
                let topic_id = reader.topic_id().await?;
                anyhow::Ok((offset_of(&mut reader, reset.to).await?, topic_id))
            };
            let looked = look.await;
            let (next_offset, topic_id) = looked.with_context(|| format!("{topic}/{partition}"))?;
            moves.push(Move {
                stream: Stream {
                    group: context.group().to_owned(),
                    topic: topic.clone(),
                    partition,
                },
                next_offset,
                topic_id,
            });
        }
    }
    let mut rows = Vec::new();
    for (stream, before) in moves.iter().zip(befores(&mut inbox, &moves).await?) {
        rows.push([
            stream.stream.topic.clone(),
            stream.stream.partition.to_string(),
            before.map_or("-".to_owned(), |offset| offset.to_string()),
            stream.next_offset.to_string(),
        ]);
    }
    if !reset.dry_run {
        let mut transaction = inbox.begin().await?;
        for to in &moves {
            let reset = transaction.reset(&to.stream, to.next_offset, to.topic_id);
            reset.await?;
        }
        transaction.commit().await?;
    }
    let after = if reset.dry_run { "WOULD BE" } else { "NOW" };
    print(&table(["TOPIC", "PARTITION", "BEFORE", after], &rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn befores(inbox: &mut dyn Inbox, moves: &[Move]) -> anyhow::Result<Vec<Option<i64>>> {
    let mut befores = Vec::new();
    for to in moves {
        let progress = inbox.progress(&to.stream).await?;
        befores.push(progress.map(|progress| progress.next_offset));
    }
    Ok(befores)
}

async fn offset_of(reader: &mut PartitionReader, target: Target) -> anyhow::Result<i64> {
    let (earliest, latest) = (reader.earliest().await?, reader.latest().await?);
    Ok(match target {
        Target::Earliest => earliest,
        Target::Latest => latest,
        Target::Since(time) => reader.first_since(time).await?,
        Target::Offset(offset) if (earliest..=latest).contains(&offset) => offset,
        Target::Offset(offset) => {
            bail!("offset {offset} is out of range: the partition has {earliest} to {latest}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_word_a_number_or_a_time() {
        assert_eq!("earliest".parse(), Ok(Target::Earliest));
        assert_eq!("latest".parse(), Ok(Target::Latest));
        assert_eq!("17".parse(), Ok(Target::Offset(17)));
        assert_eq!(
            "2026-01-31T12:00:00Z".parse(),
            Ok(Target::Since(time::macros::datetime!(2026-01-31 12:00 UTC)))
        );
        assert!("yesterday".parse::<Target>().is_err());
    }
}
