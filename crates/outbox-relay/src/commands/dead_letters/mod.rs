//! `dead-letters`: looking at what cannot go out, sending it again, giving it up.

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
    /// List held events by topic, key and order within it
    List(ListArgs),
    /// Publish dead events after all, and those that wait behind them, in order
    Redrive(DecisionArgs),
    /// Give dead events up, and publish what waits behind them
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
