//! The executable of the order API: reads arguments and settings, hands over to the library.

use std::process::ExitCode;

use clap::Parser;
use order_api::cli::{Arguments, Command};
use order_api::settings::{MigrateSettings, Settings};
use service::{Service, Source, exit_code_for_settings, healthcheck};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let source = match Source::load(arguments.common.config.as_deref()) {
        Ok(source) => source,
        Err(error) => return exit_code_for_settings(&error),
    };
    match arguments.command.unwrap_or_default() {
        Command::Serve => service::launch(Settings::read(&source), |s| &s.log, order_api::serve),
        Command::Migrate => service::launch(
            MigrateSettings::read(&source),
            |s| &s.log,
            order_api::migrate::run,
        ),
        Command::Healthcheck => healthcheck::run(&source, Service::OrderApi),
    }
}
