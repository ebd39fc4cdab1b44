//! The process shell the three services share: settings, telemetry, start and stop, supervision,
//! and the endpoints an operator asks (`/livez`, `/readyz`, `/metrics`).
//!
//! It never knows what the process does: no SQL, no Kafka, no orders. A `main` reads like this:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use service::{OpsSettings, Process, Service, Source, TelemetrySettings};
//!
//! fn main() -> ExitCode {
//!     let source = match Source::load(None) {
//!         Ok(source) => source,
//!         Err(error) => return service::exit_code_for_settings(&error),
//!     };
//!     let mut reader = source.reader();
//!     let log = TelemetrySettings::read(&mut reader);
//!     let ops = OpsSettings::read(&mut reader, Service::OrderApi);
//!     let settings = reader.finish_with(Some((log, ops)));
//!     service::launch(settings, |(log, _)| log, async |(_, ops)| {
//!         let mut process = Process::new("order-api");
//!         let stop = process.stop();
//!         process.spawn("work", async move {
//!             stop.cancelled().await;
//!             Ok::<(), std::io::Error>(())
//!         });
//!         process.run(ops).await
//!     })
//! }
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backoff;
pub mod cli;
pub mod healthcheck;
pub mod heartbeat;
pub mod listener;
pub mod log_throttle;
pub mod metrics;
pub mod open_files;
pub mod ops;
pub mod output;
pub mod process;
pub mod readiness;
pub mod readiness_issues;
pub mod retry;
pub mod runtime;
pub mod settings;
mod signals;
mod tasks;
pub mod telemetry;
pub mod trace;
pub mod wait;

pub use backoff::Backoff;
pub use cli::CommonArgs;
pub use listener::{ListenError, listen};
pub use log_throttle::LogThrottle;
pub use open_files::open_files;
pub use ops::{Ops, OpsSettings};
pub use process::Process;
pub use readiness::{Check, Readiness};
pub use readiness_issues::{Issue, ReadinessIssues};
pub use retry::{FailureReporter, RetryLoop};
pub use runtime::{block_on, launch};
pub use settings::{
    Problem, Reader, Secret, Service, SettingsError, Source, WorkerSettings, exit_code_for_settings,
};
pub use telemetry::{LogFormat, TelemetrySettings};
pub use tokio_util::sync::{CancellationToken, DropGuard};
pub use trace::{TraceParent, Tracer};
pub use wait::{ReportReadiness, until_ready};
