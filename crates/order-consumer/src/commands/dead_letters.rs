//! `dead-letters list|redrive|discard`.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::Position;
use serde::Serialize;
use service::output::{print, print_json, printable, table};
use storage::Fault;
use storage::inbox::dead_letters::{self, Ending, Filter, Listed};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Context, key_text};
use crate::apply::error::EffectError;
use crate::ports::Inbox;
use crate::redrive::{Decided, Decision, DecisionError, decide};
use crate::registry::Registry;

/// How often a decision is tried when it meets a deadlock or a full lock table.
const TRIES: u32 = 5;

/// Characters of a key or a reason in a table; `--json` has all.
const LONGEST: usize = 120;

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// List dead letters and the records they block
    List {
        /// Only records of this topic; may be given several times
        #[arg(long = "topic", value_name = "TOPIC")]
        topics: Vec<String>,
        /// Include settled records
        #[arg(long)]
        settled: bool,
        /// List at most this many
        #[arg(long, default_value_t = 1_000)]
        limit: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try dead letters again, then the records they block, in order
    Redrive(Which),
    /// Give dead letters up and apply the records they block
    Discard(Which),
}

#[derive(Debug, Clone, Args)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct Which {
    /// Positions of held records
    #[arg(group = "which", conflicts_with = "all", value_name = "TOPIC/PARTITION/OFFSET", value_parser = position)]
    positions: Vec<Position>,
    /// All held records
    #[arg(long, group = "which")]
    all: bool,
    /// With --all: only records of this topic; may be given several times
    #[arg(long = "topic", value_name = "TOPIC", requires = "all")]
    topics: Vec<String>,
    /// Show what would happen and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn position(text: &str) -> Result<Position, &'static str> {
    const WRONG: &str = "must be TOPIC/PARTITION/OFFSET";
    let (rest, offset) = text.rsplit_once('/').ok_or(WRONG)?;
    let (topic, partition) = rest.rsplit_once('/').ok_or(WRONG)?;
    Ok(Position {
        topic: topic.to_owned(),
        partition: partition.parse().map_err(|_| WRONG)?,
        offset: offset.parse().map_err(|_| WRONG)?,
    })
}

pub(crate) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List {
            topics,
            settled,
            limit,
            json,
        } => list(&context, &topics, Filter { settled, limit }, json).await,
        Command::Redrive(which) => settle(&context, Decision::Redrive, which).await,
        Command::Discard(which) => settle(&context, Decision::Discard, which).await,
    }
}

/// A record as `list --json` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    topic: String,
    partition: i32,
    offset: i64,
    event_id: Option<Uuid>,
    key: Option<String>,
    value_bytes: Option<i32>,
    cause: &'static str,
    reason: String,
    attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    held_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    settled_at: Option<OffsetDateTime>,
    settled_as: Option<&'static str>,
}

impl Row {
    fn new(topic: &str, listed: Listed) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: listed.partition,
            offset: listed.offset,
            event_id: listed.event_id,
            key: listed.key.as_deref().map(key_text),
            value_bytes: listed.value_bytes,
            cause: listed.cause.as_str(),
            reason: listed.reason,
            attempts: listed.attempts,
            held_at: listed.held_at,
            settled_at: listed.settled_at,
            settled_as: listed.settled_as.map(Ending::as_str),
        }
    }
}

async fn list(
    context: &Context,
    topics: &[String],
    mut filter: Filter,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let topics = context.topics(topics)?;
    let mut conn = context.connect().await?;
    let mut rows: Vec<Row> = Vec::new();
    for topic in topics {
        let listed = dead_letters::list(&mut conn, context.group(), &topic, filter).await?;
        filter.limit -= i64::try_from(listed.len()).unwrap_or(filter.limit);
        rows.extend(listed.into_iter().map(|listed| Row::new(&topic, listed)));
    }
    if json {
        print_json(&rows)?;
    } else {
        let cells: Vec<[String; 5]> = rows
            .into_iter()
            .map(|row| {
                [
                    format!("{}/{}/{}", row.topic, row.partition, row.offset),
                    row.settled_as.unwrap_or(row.cause).to_owned(),
                    row.key
                        .map_or("-".to_owned(), |key| printable(&key, LONGEST)),
                    row.event_id.map_or("-".to_owned(), |id| id.to_string()),
                    printable(&row.reason, LONGEST),
                ]
            })
            .collect();
        let headings = ["POSITION", "STATE", "KEY", "EVENT", "REASON"];
        print(&table(headings, &cells))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn settle(context: &Context, decision: Decision, which: Which) -> anyhow::Result<ExitCode> {
    let of_positions: Vec<String> = which.positions.iter().map(|p| p.topic.clone()).collect();
    context.topics(&of_positions)?;
    let topics = context.topics(&which.topics)?;
    let mut conn = context.connect().await?;
    let mut positions = which.positions;
    // Before anything is done: a slip must not be taken for a record that another one took along.
    for position in &positions {
        let held = dead_letters::key_of(&mut conn, context.group(), position).await?;
        held.ok_or_else(|| DecisionError::NothingHeld(position.clone()))?;
    }
    if which.all {
        for topic in topics {
            let unsettled = dead_letters::unsettled_keys(&mut conn, context.group(), &topic);
            positions.extend(unsettled.await?);
        }
    }
    let mut inbox = context.inbox();
    let (mut total, mut stuck) = (Decided::default(), 0);
    let mut keys: HashSet<(&str, Vec<u8>)> = HashSet::new();
    for position in &positions {
        // All of a key is decided on at once, and a dry run leaves it as it was. Only what is
        // discarded one by one comes to light one by one.
        if which.dry_run || decision == Decision::Redrive {
            let key = dead_letters::key_of(&mut conn, context.group(), position).await?;
            let seen = |key| !keys.insert((position.topic.as_str(), key));
            if key.flatten().is_some_and(seen) {
                continue;
            }
        }
        let decided = retry_on_lock(
            &mut inbox,
            context.group(),
            position,
            decision,
            &context.registry,
            which.dry_run,
        );
        let decided = match decided.await {
            Ok(decided) => decided,
            // One of several positions of a key takes the others with it.
            Err(DecisionError::NothingHeld(_)) if total != Decided::default() => continue,
            Err(error) => return Err(error).with_context(|| position.to_string()),
        };
        if let Some((position, reason)) = &decided.stuck {
            let reason = printable(reason, LONGEST);
            eprintln!("{position} still cannot be applied: {reason}");
            stuck += 1;
        }
        total.applied += decided.applied;
        total.duplicates += decided.duplicates;
        total.discarded += decided.discarded;
    }
    let would = if which.dry_run { "would be " } else { "" };
    print(&format!(
        "{would}applied: {}, applied before: {}, {would}discarded: {}, keys still held: {stuck}\n",
        total.applied, total.duplicates, total.discarded
    ))?;
    Ok(if stuck == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn retry_on_lock(
    inbox: &mut dyn Inbox,
    group: &str,
    position: &Position,
    decision: Decision,
    registry: &Registry,
    dry_run: bool,
) -> Result<Decided, DecisionError> {
    let mut tries = 1;
    loop {
        let decided = decide(inbox, group, position, decision, registry, dry_run).await;
        match decided {
            Err(DecisionError::Effect(error)) if tries < TRIES && is_trouble(&error) => tries += 1,
            decided => return decided,
        }
    }
}

fn is_trouble(error: &EffectError) -> bool {
    match error {
        EffectError::Storage(error) => error.fault() == Fault::Trouble,
        EffectError::Handler { .. } => !error.blames_an_event(true),
        EffectError::MetBefore | EffectError::PlaceTaken(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_topic_a_partition_and_an_offset() {
        let read = |text: &str| position(text).map(|position| position.to_string());
        assert_eq!(read("order.created/3/17").unwrap(), "order.created/3/17");
        for wrong in ["17", "3/17", "a/1/b", "a/b/1", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
