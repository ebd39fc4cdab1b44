//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use service::{CommonArgs, Service, Source, exit_code_for_settings, healthcheck};

use crate::app;
use crate::commands::{self, dead_letters, offsets, status};
use crate::settings::Settings;

/// Applies the effect of each event from Kafka exactly once.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Consume until stopped (the default)
    Run,
    /// Show the group's offset, lag and owner in each partition
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List, redrive or discard records that could not be applied
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Set where the group continues
    #[command(subcommand)]
    Offsets(offsets::Command),
    /// Check whether the process on this machine is ready; exits with 0 or 1
    Healthcheck,
}

/// Does what the command line says; returns the exit status.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let source = match Source::load(cli.common.config.as_deref()) {
        Ok(source) => source,
        Err(error) => return exit_code_for_settings(&error),
    };
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => service::launch(Settings::read(&source), |s| &s.telemetry, app::run),
        Command::Status { json } => commands::run(&source, |context| status::run(context, json)),
        Command::DeadLetters(command) => {
            commands::run(&source, |context| dead_letters::run(context, command))
        }
        Command::Offsets(command) => {
            commands::run(&source, |context| offsets::run(context, command))
        }
        Command::Healthcheck => healthcheck::run(&source, Service::OrderConsumer),
    }
}
