//! `replay`: publishes published events again.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use service::output::{print, print_json};
use storage::outbox::{ReplayBounds, database_time, replay, replayable};
use storage::{Connection, Database, StorageError, with_timeout};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::events;
use super::{CommandError, DEADLINE, connect, retry_on_lock, wake_relays, working};

/// Ids looked at per statement.
const WINDOW: i64 = 5_000;

/// Which events, and whether to do it.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    bounds: Bounds,
    /// Show what would happen and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Bounds {
    /// Only events published at this time or later, such as 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<OffsetDateTime>,
    /// Only events published before this time. Default: now
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<OffsetDateTime>,
    /// Only events of this key
    #[arg(long)]
    key: Option<String>,
    /// Only events of this topic
    #[arg(long)]
    topic: Option<String>,
    /// The lowest id (not event id)
    #[arg(long, value_name = "ID")]
    from_id: Option<i64>,
    /// The highest id
    #[arg(long, value_name = "ID")]
    to_id: Option<i64>,
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected a time with its offset, such as 2025-01-31T12:00:00Z".to_owned())
}

impl ReplayArgs {
    /// Refuses bounds that no event can be within.
    pub(super) fn check(&self) -> Result<(), String> {
        let Bounds {
            from,
            to,
            from_id,
            to_id,
            ..
        } = &self.bounds;
        if from.zip(*to).is_some_and(|(from, to)| from >= to) {
            return Err("--from must be before --to".to_owned());
        }
        if from_id.zip(*to_id).is_some_and(|(from, to)| from > to) {
            return Err("--from-id must not be above --to-id".to_owned());
        }
        Ok(())
    }
}

pub(super) async fn run(database: &Database, args: ReplayArgs) -> Result<ExitCode, CommandError> {
    let mut conn = connect(database, working()).await?;
    let Bounds {
        from,
        to,
        key,
        topic,
        from_id,
        to_id,
    } = args.bounds;
    // Events that relays publish again meanwhile must not be replayed twice.
    let now = with_timeout(DEADLINE, database_time(&mut conn)).await?;
    let bounds = ReplayBounds {
        from,
        to: Some(to.map_or(now, |to| to.min(now))),
        topic,
        key,
        from_id,
        to_id,
    };
    let dry_run = args.dry_run;
    let mut replayed = 0;
    let outcome = walk(&mut conn, &bounds, dry_run, &mut replayed).await;
    let verb = if dry_run { "would replay" } else { "replayed" };
    let done = format!("{verb} {}", events(replayed));
    if let Err(cause) = outcome {
        return Err(CommandError::Interrupted { cause, done });
    }
    if args.json {
        print_json(&json!({ "dryRun": dry_run, "replayed": replayed }))?;
    } else {
        print(&format!("{done}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn walk(
    conn: &mut Connection,
    bounds: &ReplayBounds,
    dry_run: bool,
    replayed: &mut i64,
) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let window = retry_on_lock(conn, async |conn| {
            if dry_run {
                replayable(conn, bounds, after, WINDOW).await
            } else {
                replay(conn, bounds, after, WINDOW).await
            }
        })
        .await?;
        *replayed += window.matching;
        after = window.last;
        if after.is_none() {
            break;
        }
    }
    if !dry_run && *replayed > 0 {
        wake_relays(conn).await;
    }
    Ok(())
}
