//! The executable of the order API: reads arguments and settings, hands over to the library.

use std::process::ExitCode;

use clap::Parser;
use order_api::cli::{Arguments, Command};
use order_api::settings::{DEFAULT_OPS_PORT, MigrateSettings, Settings};
use service::{Source, TelemetrySettings, exit_code_for_settings, healthcheck, telemetry};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let source = match Source::load(arguments.common.config.as_deref()) {
        Ok(source) => source,
        Err(error) => return exit_code_for_settings(&error),
    };
    match arguments.command.unwrap_or_default() {
        Command::Serve => match Settings::read(&source) {
            Ok(settings) => start(&settings.log.clone(), order_api::serve(settings)),
            Err(error) => exit_code_for_settings(&error),
        },
        Command::Migrate => match MigrateSettings::read(&source) {
            Ok(settings) => start(&settings.log.clone(), order_api::migrate::run(settings)),
            Err(error) => exit_code_for_settings(&error),
        },
        Command::Healthcheck => healthcheck::run(&source, DEFAULT_OPS_PORT),
    }
}

fn start(log: &TelemetrySettings, command: impl Future<Output = ExitCode>) -> ExitCode {
    if let Err(error) = telemetry::init(log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    service::block_on(command)
}
