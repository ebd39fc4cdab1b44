//! `dead-letters list`.

use clap::{Args, ValueEnum};
use domain::EventState;
use serde::Serialize;
use service::output::{print, print_json, printable, table, time};
use storage::outbox::{HeldEvent, HeldFilter, held};
use storage::{Connection, with_timeout};
use uuid::Uuid;

use crate::commands::{CommandError, DEADLINE};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only events of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only events of this key
    #[arg(long)]
    key: Option<String>,
    /// Only events held for this cause. Default: all but discarded events
    #[arg(long, value_enum)]
    cause: Option<Cause>,
    /// List at most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    limit: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why an event is held.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cause {
    /// It can never be published
    Dead,
    /// A dead letter of its key blocks it
    Blocked,
    /// Its partition cannot be written
    Unavailable,
    /// It was a dead letter and was discarded
    Discarded,
}

impl From<Cause> for EventState {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Dead => Self::Dead,
            Cause::Blocked => Self::Blocked,
            Cause::Unavailable => Self::Unavailable,
            Cause::Discarded => Self::Discarded,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: i64,
    event_id: Uuid,
    topic: String,
    key: String,
    event_type: String,
    state: EventState,
    error: Option<String>,
    attempts: Option<i32>,
    /// The id of the event it waits for.
    blocked_by: Option<i64>,
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
            blocked_by: event.blocked_by,
            created_at: time(event.created_at),
            held_at: time(event.held_at),
            discarded_at: event.discarded_at.map(time),
        }
    }
}

pub(super) async fn list(conn: &mut Connection, args: ListArgs) -> Result<(), CommandError> {
    let filter = HeldFilter {
        topic: args.topic,
        key: args.key,
        state: args.cause.map(Into::into),
    };
    let mut found = with_timeout(DEADLINE, held(conn, &filter, args.limit + 1)).await?;
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
                item.state.as_str().to_owned(),
                printable(&item.topic, 40),
                printable(&item.key, 40),
                item.held_at,
                optional(item.attempts.map(|n| n.to_string())),
                optional(item.blocked_by.map(|id| id.to_string())),
                printable(&item.error.unwrap_or_default(), 80),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "EVENT",
        "STATE",
        "TOPIC",
        "KEY",
        "HELD AT",
        "ATTEMPTS",
        "BLOCKED BY",
        "ERROR",
    ];
    let rest = if more {
        "there are more; see --limit\n"
    } else {
        ""
    };
    print(&format!("{}{rest}", table(headings, &rows)))?;
    Ok(())
}
