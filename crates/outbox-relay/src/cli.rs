//! The command line.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use service::{CommonArgs, Service, Source, exit_code_for_settings, healthcheck};

use crate::app;
use crate::commands::Operation;
use crate::settings::Settings;

/// Moves committed events from the outbox to Kafka.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay until stopped (the default)
    Run,
    /// Check whether the process on this machine is ready; exits with 0 or 1
    Healthcheck,
    #[command(flatten)]
    Operation(Operation),
}

/// Does what the command line says; returns the exit status.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Operation(operation)) = &cli.command
        && let Err(wrong) = operation.check()
    {
        Cli::command()
            .error(ErrorKind::ArgumentConflict, wrong)
            .exit();
    }
    let source = match Source::load(cli.common.config.as_deref()) {
        Ok(source) => source,
        Err(error) => return exit_code_for_settings(&error),
    };
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => service::launch(Settings::read(&source), |s| &s.telemetry, app::run),
        Command::Healthcheck => healthcheck::run(&source, Service::OutboxRelay),
        Command::Operation(operation) => operation.run(&source),
    }
}
