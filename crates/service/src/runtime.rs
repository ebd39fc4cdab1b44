//! The tokio runtime a service runs on, and how it is left.

use std::process::ExitCode;

use crate::open_files::open_files;
use crate::settings::{SettingsError, exit_code_for_settings};
use crate::telemetry::{self, TelemetrySettings};

/// Starts what a process does once its settings are good, its log is set up and it may open as many
/// files as the system lets it; returns the exit status.
pub fn launch<S, F>(
    settings: Result<S, SettingsError>,
    telemetry: impl FnOnce(&S) -> &TelemetrySettings,
    main: impl FnOnce(S) -> F,
) -> ExitCode
where
    F: Future<Output = ExitCode>,
{
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return exit_code_for_settings(&error),
    };
    if let Err(error) = telemetry::init(telemetry(&settings)) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // Each partition that is written or read takes a connection; their number is not ours to choose.
    open_files();
    block_on(main(settings))
}

/// Runs `main` on a multi-threaded runtime and returns its exit status.
///
/// Differs from `#[tokio::main]` in the end: the runtime is left without waiting for tasks, because
/// dropping it would wait for as long as a task that does not yield, and the promise that a process
/// ends within its grace period would hold only for tasks that behave.
pub fn block_on(main: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(main);
    runtime.shutdown_background();
    exit
}
