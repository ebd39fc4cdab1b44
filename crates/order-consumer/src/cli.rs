//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use service::{CommonArgs, Source, exit_code_for_settings, healthcheck, telemetry};

use crate::app;
use crate::settings::{DEFAULT_OPS_PORT, Settings};

/// Applies the effect of each event from Kafka exactly once.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Consume until stopped (the default)
    Run,
    /// Ask the process with these settings on this machine whether it is ready: exit status 0 or 1
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
        Command::Run => run(&source),
        Command::Healthcheck => healthcheck::run(&source, DEFAULT_OPS_PORT),
    }
}

fn run(source: &Source) -> ExitCode {
    let settings = match Settings::read(source) {
        Ok(settings) => settings,
        Err(error) => return exit_code_for_settings(&error),
    };
    if let Err(error) = telemetry::init(&settings.telemetry) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    service::block_on(app::run(settings))
}
