//! The tokio runtime a service runs on, and how it is left.

use std::process::ExitCode;

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
            tracing::error!(%error, "the runtime could not be started");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(main);
    runtime.shutdown_background();
    exit
}
