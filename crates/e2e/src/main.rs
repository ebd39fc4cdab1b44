//! Drives the three real binaries as a user would: `check` proves the promises from the outside,
//! `run` is for trying the system out. Nothing in here looks into the services.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod api;
mod books;
mod check;
mod child;
mod compose;
mod deployment;
mod eventually;
mod latency;
mod load;
mod mode;
mod native;
mod report;
mod run;
mod steps;
mod topic;
mod torture;
mod world;

/// Runs order-api, outbox-relay and order-consumer together.
#[derive(Debug, Parser)]
#[command(name = "e2e", version)]
struct Arguments {
    /// What to do. Default: check
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Start a new system, check it end to end, and remove it again (the default).
    ///
    /// Uses Docker Compose if its engine answers, and processes on this machine otherwise.
    /// LOCAL_STACK=native or LOCAL_STACK=compose decides instead.
    Check,
    /// Run everything on the local stack until Ctrl-C, with the logs of all three on the terminal
    Run,
    /// Let one thing after the other go wrong for minutes, and check that none of it is seen from
    /// outside.
    ///
    /// Processes of this machine, beside a Postgres and a Kafka of their own, each of several servers.
    Torture(torture::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Check) {
        Command::Check => check::main().await,
        Command::Run => run::main().await,
        Command::Torture(arguments) => torture::main(arguments).await,
    }
}
