//! Measures against the limits of the parts: everything on this machine, in one run, interleaved.
//!
//! What is compared runs in turn, several rounds; the table shows medians and ratios. Every run's
//! result is checked before its time counts.

mod bare;
mod check;
mod cpu;
mod latency;
mod process;
mod relay;
mod report;
mod seed;
mod usual;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the project on this machine.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How fast a backlog drains, beside the bare parts and the usual outbox
    Relay(RelayArgs),
    /// How long an order takes from its commit to that of its effect
    Latency(LatencyArgs),
}

#[derive(Debug, clap::Args)]
struct LatencyArgs {
    /// Orders per second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// For how many seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[derive(Debug, clap::Args)]
struct RelayArgs {
    /// Events in the backlog
    #[arg(long, default_value_t = 1_000_000)]
    events: i64,
    /// Rounds; medians of them are shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these measurements (by a part of their name)
    #[arg(long)]
    only: Vec<String>,
    /// Where to write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Relay(args) => relay::bench(&args).await,
        Command::Latency(args) => latency::bench(&args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
