//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use service::{CommonArgs, Source, exit_code_for_settings, telemetry};

use crate::app;
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

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Consume until stopped (the default)
    Run,
}

/// Does what the command line says; returns the exit status.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings =
        Source::load(cli.common.config.as_deref()).and_then(|source| Settings::read(&source));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return exit_code_for_settings(&error),
    };
    if let Err(error) = telemetry::init(&settings.telemetry) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => service::block_on(app::run(settings)),
    }
}
