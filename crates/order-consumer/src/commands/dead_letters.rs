//! `dead-letters list|redrive|discard`.

use std::collections::HashSet;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::Position;
use serde::Serialize;
use service::output::{print, print_json, printable, table};
use storage::inbox::dead_letters::{self, Filter, Listed};
use storage::{Connection, Fault};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Context, TOPIC, key_text};
use crate::apply::effects::{EffectError, Effects};
use crate::redrive::{Decided, Decision, DecisionError, decide};

/// A decision that met a deadlock or a full lock table is made again.
const TRIES: u32 = 5;

/// Characters of a key or a reason that people are shown; `--json` has all.
const LONGEST: usize = 120;

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Show the records that could not be applied, and those waiting behind them
    List {
        /// Show settled ones too
        #[arg(long)]
        settled: bool,
        /// Show this many at most
        #[arg(long, default_value_t = 1_000)]
        limit: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply held records after all: each with all of its key, in order
    Redrive(Which),
    /// Give dead records up, and apply those that wait behind them
    Discard(Which),
}

#[derive(Debug, Clone, Args)]
#[group(id = "which", required = true, multiple = true)]
pub(crate) struct Which {
    /// Where the records are: PARTITION/OFFSET or TOPIC/PARTITION/OFFSET
    #[arg(group = "which", conflicts_with = "all")]
    positions: Vec<Place>,
    /// All that are held
    #[arg(long, group = "which")]
    all: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// A place in the consumer's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(Position);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "must be PARTITION/OFFSET or TOPIC/PARTITION/OFFSET".to_owned();
        let (rest, offset) = text.rsplit_once('/').ok_or_else(wrong)?;
        let (topic, partition) = rest.rsplit_once('/').unwrap_or((TOPIC, rest));
        if topic != TOPIC {
            return Err(format!("the consumer reads the topic {TOPIC} only"));
        }
        Ok(Self(Position {
            topic: topic.to_owned(),
            partition: partition.parse().map_err(|_| wrong())?,
            offset: offset.parse().map_err(|_| wrong())?,
        }))
    }
}

pub(crate) async fn run(context: Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List {
            settled,
            limit,
            json,
        } => list(&context, Filter { settled, limit }, json).await,
        Command::Redrive(which) => settle(&context, Decision::Redrive, which).await,
        Command::Discard(which) => settle(&context, Decision::Discard, which).await,
    }
}

/// A record as `list --json` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    topic: &'static str,
    partition: i32,
    offset: i64,
    event_id: Option<Uuid>,
    key: Option<String>,
    value_bytes: Option<i32>,
    cause: String,
    reason: String,
    attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    held_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    settled_at: Option<OffsetDateTime>,
    settled_as: Option<String>,
}

impl From<Listed> for Row {
    fn from(listed: Listed) -> Self {
        Self {
            topic: TOPIC,
            partition: listed.partition,
            offset: listed.offset,
            event_id: listed.event_id,
            key: listed.key.as_deref().map(key_text),
            value_bytes: listed.value_bytes,
            cause: listed.cause,
            reason: listed.reason,
            attempts: listed.attempts,
            held_at: listed.held_at,
            settled_at: listed.settled_at,
            settled_as: listed.settled_as,
        }
    }
}

async fn list(context: &Context, filter: Filter, json: bool) -> anyhow::Result<ExitCode> {
    let mut conn = context.connect().await?;
    let listed = dead_letters::list(&mut conn, context.group(), TOPIC, filter).await?;
    let rows: Vec<Row> = listed.into_iter().map(Row::from).collect();
    if json {
        print_json(&rows)?;
    } else {
        let cells: Vec<[String; 5]> = rows
            .into_iter()
            .map(|row| {
                [
                    format!("{}/{}", row.partition, row.offset),
                    row.settled_as.unwrap_or(row.cause),
                    row.key
                        .map_or("-".to_owned(), |key| printable(&key, LONGEST)),
                    row.event_id.map_or("-".to_owned(), |id| id.to_string()),
                    printable(&row.reason, LONGEST),
                ]
            })
            .collect();
        let headings = ["PLACE", "STATE", "KEY", "EVENT", "REASON"];
        print(&table(headings, &cells))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn settle(context: &Context, decision: Decision, which: Which) -> anyhow::Result<ExitCode> {
    let mut conn = context.connect().await?;
    let positions: Vec<Position> = if which.all {
        dead_letters::unsettled_keys(&mut conn, context.group(), TOPIC).await?
    } else {
        which.positions.into_iter().map(|place| place.0).collect()
    };
    let effects = Effects::default();
    let (mut total, mut stuck) = (Decided::default(), 0);
    let mut keys: HashSet<Vec<u8>> = HashSet::new();
    for position in &positions {
        // All of a key is decided on at once, and a dry run leaves it as it was. Only what is
        // discarded one by one comes to light one by one.
        if which.dry_run || decision == Decision::Redrive {
            let key = dead_letters::key_of(&mut conn, context.group(), position).await?;
            if key.flatten().is_some_and(|key| !keys.insert(key)) {
                continue;
            }
        }
        let decided = patiently(
            &mut conn,
            context.group(),
            position,
            decision,
            &effects,
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

async fn patiently(
    conn: &mut Connection,
    group: &str,
    position: &Position,
    decision: Decision,
    effects: &Effects,
    dry_run: bool,
) -> Result<Decided, DecisionError> {
    let mut tries = 1;
    loop {
        let decided = decide(conn, group, position, decision, effects, dry_run).await;
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
    fn places_are_read_with_and_without_the_topic() {
        let place = |text: &str| text.parse::<Place>().map(|place| place.0.to_string());
        assert_eq!(place("3/17").unwrap(), "order.created/3/17");
        assert_eq!(place("order.created/3/17").unwrap(), "order.created/3/17");
        for wrong in ["17", "a/1", "1/b", "other/1/2", ""] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
