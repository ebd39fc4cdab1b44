//! `dead-letters redrive` and `dead-letters discard`: what is chosen, done, and said about it.

use std::fmt::{self, Display, Formatter};

use clap::Args;
use domain::{EventId, EventState};
use serde_json::json;
use service::output::{print, print_json};
use storage::outbox::{
    Discarded, Redriven, TopicKey, dead_keys, discard, discardable, held_event, redrivable, redrive,
};
use storage::{Connection, StorageError, with_timeout};

use crate::commands::events;
use crate::commands::{CommandError, DEADLINE, retry_on_lock, wake_relays};

/// Keys per transaction.
const KEYS_PER_STEP: i64 = 100;

#[derive(Debug, Args)]
pub(crate) struct DecisionArgs {
    #[command(flatten)]
    selection: Selection,
    /// Show what would happen and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Selection {
    /// Topic of the key
    #[arg(long, requires = "key")]
    topic: Option<String>,
    /// Key whose events to decide on
    #[arg(long, requires = "topic")]
    key: Option<String>,
    /// One event, by its id (ce_id). Redrives its whole key, to keep the order
    #[arg(long, value_name = "ID", conflicts_with_all = ["topic", "key"])]
    event: Option<EventId>,
    /// All events of all keys
    #[arg(long, conflicts_with_all = ["topic", "key", "event"])]
    all: bool,
}

/// The two things that can be done about a dead event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Redrive,
    Discard,
}

/// What a decision did, or would do.
#[derive(Debug)]
struct Tally {
    decision: Decision,
    dry_run: bool,
    keys: usize,
    /// Dead letters redriven or discarded.
    dead: i64,
    /// Events that they blocked.
    blocked: i64,
}

pub(super) async fn decide(
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
        blocked: 0,
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
        let (dead, blocked) = match (self.decision, self.dry_run) {
            (Decision::Redrive, dry_run) => {
                let Redriven { dead, blocked } = retry_on_lock(conn, async |conn| {
                    if dry_run {
                        redrivable(conn, keys).await
                    } else {
                        redrive(conn, keys).await
                    }
                })
                .await?;
                (dead, blocked)
            }
            (Decision::Discard, dry_run) => {
                let Discarded {
                    discarded,
                    returned,
                } = retry_on_lock(conn, async |conn| {
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
        if dead + blocked > 0 {
            self.keys += keys.len();
        }
        self.dead += dead;
        self.blocked += blocked;
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let Self {
            dry_run,
            keys,
            dead,
            blocked,
            ..
        } = self;
        match self.decision {
            Decision::Redrive => {
                json!({ "dryRun": dry_run, "keys": keys, "dead": dead, "blocked": blocked })
            }
            Decision::Discard => {
                json!({ "dryRun": dry_run, "keys": keys, "discarded": dead, "returned": blocked })
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
        let with = match self.decision {
            Decision::Redrive => "with",
            Decision::Discard => "returning to pending",
        };
        write!(
            f,
            "{verb} {} of {} key{}, {with} {} blocked event{}",
            events(self.dead),
            self.keys,
            if self.keys == 1 { "" } else { "s" },
            self.blocked,
            if self.blocked == 1 { "" } else { "s" }
        )
    }
}

/// Every key with a dead event, a page at a time. A key that dies again meanwhile is not met again.
async fn all(conn: &mut Connection, tally: &mut Tally) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let page = with_timeout(DEADLINE, dead_keys(conn, after.as_ref(), KEYS_PER_STEP)).await?;
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
    let found = with_timeout(DEADLINE, held_event(conn, event)).await?;
    let found = found.ok_or(CommandError::NotHeld(event))?;
    let explanation = match (found.state, decision) {
        (EventState::Dead, _) | (EventState::Blocked, Decision::Redrive) => None,
        (EventState::Blocked, Decision::Discard) => {
            Some(": a dead letter blocks it; discard that one")
        }
        (EventState::Unavailable, _) => {
            Some(": it goes out when its partition can be written again")
        }
        (EventState::Discarded, _) => Some(": there is nothing left to decide"),
        (EventState::Pending | EventState::Published | EventState::Unqueued, _) => {
            return Err(CommandError::NotHeld(event));
        }
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
