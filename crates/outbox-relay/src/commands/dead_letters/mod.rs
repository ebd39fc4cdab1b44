//! `dead-letters`: lists, redrives or discards events that cannot go out.

mod decide;
mod list;

use std::process::ExitCode;

use clap::Subcommand;
use storage::Database;

use self::decide::{Decision, DecisionArgs, decide};
use self::list::{ListArgs, list};
use super::{CommandError, connect, working};

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List held events by topic and key, in the order of the key
    List(ListArgs),
    /// Send dead letters again, then the events they block, in order
    Redrive(DecisionArgs),
    /// Give dead letters up and publish the events they block
    Discard(DecisionArgs),
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
