//! `dead-letters`: looking at what cannot go out, sending it again, giving it up.

use std::fmt::{self, Display, Formatter};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use domain::EventId;
use serde::Serialize;
use serde_json::json;
use storage::outbox::{
    Discarded, HeldEvent, HeldFilter, Redriven, TopicKey, dead_keys, discard, discardable, held,
    held_event, redrivable, redrive,
};
use storage::{Connection, Database, StorageError, within};
use uuid::Uuid;

use super::output::{events, print, print_json, printable, table, time};
use super::{CommandError, DEADLINE, connect, patiently, wake_relays, working};

/// Keys per transaction.
const KEYS_PER_STEP: i64 = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List held events by topic, key and order within it
    List(ListArgs),
    /// Publish dead events after all, and those that wait behind them, in order
    Redrive(DecisionArgs),
    /// Give dead events up, and publish what waits behind them
    Discard(DecisionArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only events of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only events of this key
    #[arg(long)]
    key: Option<String>,
    /// Only events held for this cause; without it, all but those given up
    #[arg(long, value_enum)]
    cause: Option<Cause>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    limit: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What an event is held for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cause {
    /// It can never be produced
    Dead,
    /// It waits for a dead one of its key
    Behind,
    /// Its partition cannot be written
    Unavailable,
    /// It was dead and is given up
    Discarded,
}

#[derive(Debug, Args)]
pub(crate) struct DecisionArgs {
    #[command(flatten)]
    selection: Selection,
    /// Say what would happen and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Selection {
    /// The events of a key in this topic
    #[arg(long, requires = "key")]
    topic: Option<String>,
    /// The events of this key in a topic
    #[arg(long, requires = "topic")]
    key: Option<String>,
    /// One event, by its id (ce_id). To redrive it is to redrive its key: order is kept
    #[arg(long, value_name = "ID", conflicts_with_all = ["topic", "key"])]
    event: Option<EventId>,
    /// All events of all keys
    #[arg(long, conflicts_with_all = ["topic", "key", "event"])]
    all: bool,
}

/// The two things that can be done about a dead event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Redrive,
    Discard,
}

pub(super) async fn run(
    database: &Database,
    command: DeadLetters,
) -> Result<ExitCode, CommandError> {
    let mut conn = connect(database, working()).await?;
    match command {
        DeadLetters::List(args) => list(&mut conn, args).await?,
        DeadLetters::Redrive(args) => decide(&mut conn, Decision::Redrive, args).await?,
        DeadLetters::Discard(args) => decide(&mut conn, Decision::Discard, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: i64,
    event_id: Uuid,
    topic: String,
    key: String,
    event_type: String,
    state: String,
    error: Option<String>,
    attempts: Option<i32>,
    /// The id of the event it waits for.
    behind: Option<i64>,
    created_at: String,
    held_at: String,
    discarded_at: Option<String>,
}

impl From<HeldEvent> for Item {
    fn from(event: HeldEvent) -> Self {
        Self {
            id: event.id,
            event_id: event.event_id,
            topic: event.of.topic,
            key: event.of.key,
            event_type: event.event_type,
            state: event.state,
            error: event.error,
            attempts: event.attempts,
            behind: event.behind,
            created_at: time(event.created_at),
            held_at: time(event.held_at),
            discarded_at: event.discarded_at.map(time),
        }
    }
}

async fn list(conn: &mut Connection, args: ListArgs) -> Result<(), CommandError> {
    let filter = HeldFilter {
        topic: args.topic,
        key: args.key,
        state: args.cause.map(|cause| {
            match cause {
                Cause::Dead => "dead",
                Cause::Behind => "behind",
                Cause::Unavailable => "unavailable",
                Cause::Discarded => "discarded",
            }
            .to_owned()
        }),
    };
    let mut found = within(DEADLINE, held(conn, &filter, args.limit + 1)).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let items: Vec<Item> = found.into_iter().map(Into::into).collect();
    if args.json {
        #[derive(Serialize)]
        struct Listed {
            items: Vec<Item>,
            more: bool,
        }
        print_json(&Listed { items, more })?;
        return Ok(());
    }
    if items.is_empty() {
        print("nothing is held\n")?;
        return Ok(());
    }
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<[String; 9]> = items
        .into_iter()
        .map(|item| {
            [
                item.id.to_string(),
                item.event_id.to_string(),
                item.state,
                printable(&item.topic, 40),
                printable(&item.key, 40),
                item.held_at,
                optional(item.attempts.map(|n| n.to_string())),
                optional(item.behind.map(|id| id.to_string())),
                printable(&item.error.unwrap_or_default(), 80),
            ]
        })
        .collect();
    let headings = [
        "ID", "EVENT", "STATE", "TOPIC", "KEY", "HELD AT", "ATTEMPTS", "BEHIND", "ERROR",
    ];
    let rest = if more {
        "there are more; see --limit\n"
    } else {
        ""
    };
    print(&format!("{}{rest}", table(headings, &rows)))?;
    Ok(())
}

/// What a decision did, or would do.
#[derive(Debug)]
struct Tally {
    decision: Decision,
    dry_run: bool,
    keys: usize,
    /// Dead events re-driven or given up.
    dead: i64,
    /// Events that waited behind them.
    behind: i64,
}

async fn decide(
    conn: &mut Connection,
    decision: Decision,
    args: DecisionArgs,
) -> Result<(), CommandError> {
    let DecisionArgs {
        selection,
        dry_run,
        json,
    } = args;
    let mut tally = Tally {
        decision,
        dry_run,
        keys: 0,
        dead: 0,
        behind: 0,
    };
    let outcome = match targets(conn, decision, selection).await? {
        Some((keys, only)) => tally.step(conn, &keys, only).await,
        None => all(conn, &mut tally).await,
    };
    if let Err(cause) = outcome {
        let done = tally.to_string();
        return Err(CommandError::Interrupted { cause, done });
    }
    if !dry_run && tally.keys > 0 {
        wake_relays(conn).await;
    }
    if json {
        print_json(&tally.json())?;
    } else {
        print(&format!("{tally}\n"))?;
    }
    Ok(())
}

impl Tally {
    async fn step(
        &mut self,
        conn: &mut Connection,
        keys: &[TopicKey],
        only: Option<i64>,
    ) -> Result<(), StorageError> {
        let (dead, behind) = match (self.decision, self.dry_run) {
            (Decision::Redrive, dry_run) => {
                let Redriven { dead, behind } = patiently(conn, async |conn| {
                    if dry_run {
                        redrivable(conn, keys).await
                    } else {
                        redrive(conn, keys).await
                    }
                })
                .await?;
                (dead, behind)
            }
            (Decision::Discard, dry_run) => {
                let Discarded {
                    discarded,
                    returned,
                } = patiently(conn, async |conn| {
                    if dry_run {
                        discardable(conn, keys, only).await
                    } else {
                        discard(conn, keys, only).await
                    }
                })
                .await?;
                (discarded, returned)
            }
        };
        if dead + behind > 0 {
            self.keys += keys.len();
        }
        self.dead += dead;
        self.behind += behind;
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let Self {
            dry_run,
            keys,
            dead,
            behind,
            ..
        } = self;
        match self.decision {
            Decision::Redrive => {
                json!({ "dryRun": dry_run, "keys": keys, "dead": dead, "behind": behind })
            }
            Decision::Discard => {
                json!({ "dryRun": dry_run, "keys": keys, "discarded": dead, "returned": behind })
            }
        }
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verb = match (self.decision, self.dry_run) {
            (Decision::Redrive, false) => "redrove",
            (Decision::Redrive, true) => "would redrive",
            (Decision::Discard, false) => "discarded",
            (Decision::Discard, true) => "would discard",
        };
        let behind = match self.decision {
            Decision::Redrive => "with",
            Decision::Discard => "returning to pending",
        };
        write!(
            f,
            "{verb} {} of {} key{}, {behind} {} behind",
            events(self.dead),
            self.keys,
            if self.keys == 1 { "" } else { "s" },
            events(self.behind)
        )
    }
}

/// Every key with a dead event, a page at a time. A key that dies again meanwhile is not met again.
async fn all(conn: &mut Connection, tally: &mut Tally) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let page = within(DEADLINE, dead_keys(conn, after.as_ref(), KEYS_PER_STEP)).await?;
        tally.step(conn, &page, None).await?;
        match page.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}

/// The key that was named, and the one event of it; `None` is all keys.
async fn targets(
    conn: &mut Connection,
    decision: Decision,
    selection: Selection,
) -> Result<Option<(Vec<TopicKey>, Option<i64>)>, CommandError> {
    if let (Some(topic), Some(key)) = (selection.topic, selection.key) {
        return Ok(Some((vec![TopicKey { topic, key }], None)));
    }
    let Some(event) = selection.event else {
        return Ok(None);
    };
    let found = within(DEADLINE, held_event(conn, event)).await?;
    let found = found.ok_or(CommandError::NotHeld(event))?;
    let explanation = match (found.state.as_str(), decision) {
        ("dead", _) | ("behind", Decision::Redrive) => None,
        ("behind", Decision::Discard) => Some(", waiting for a dead one: discard that"),
        ("unavailable", _) => Some(": it goes out when its partition can be written again"),
        (_, _) => Some(": it was given up"),
    };
    match explanation {
        Some(explanation) => Err(CommandError::NotDead {
            event: found.event_id,
            state: found.state,
            explanation,
        }),
        None => Ok(Some((
            vec![found.of],
            (decision == Decision::Discard).then_some(found.id),
        ))),
    }
}
