//! One process from start to exit: its tasks, when they stop, and its exit status. It does not know
//! what the tasks do.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::heartbeat::Heartbeat;
use crate::metrics::{Registrar, SecondsGauge};
use crate::ops::{MAX_HEARTBEAT_AGE, OpsState};
use crate::signals::Signals;
use crate::tasks::{BoxError, Ending, Tasks, Work, describe};
use crate::trace::{Exporter, SpanCounts, TraceSettings, Tracer};
use crate::{Ops, OpsSettings, Readiness};

/// Time all tasks together have to finish after a stop signal. A process promises to exit within
/// 10 s after SIGTERM, which is also when `docker stop` kills it; the rest is for the ops endpoints.
pub const GRACE: Duration = Duration::from_secs(9);

/// Time that sending the last spans may take, and what is left of it when the tasks took all theirs.
const LAST_SPANS: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(2);

/// All crates of the workspace share one version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A process: its tasks, its readiness, its metrics, and the token that stops it.
pub struct Process {
    name: &'static str,
    grace: Duration,
    stop: CancellationToken,
    readiness: Readiness,
    registry: Registry,
    tasks: Vec<(&'static str, Work)>,
    spans: SpanCounts,
    exporter: Option<Exporter>,
}

impl Process {
    /// A process without tasks, called `name` in logs and metrics. Nothing runs before
    /// [`Process::run`].
    pub fn new(name: &'static str) -> Process {
        let mut registry = Registry::default();
        let spans = SpanCounts::register(&mut registry);
        Process {
            name,
            grace: GRACE,
            stop: CancellationToken::new(),
            readiness: Readiness::new(),
            registry,
            tasks: Vec::new(),
            spans,
            exporter: None,
        }
    }

    /// Sets how long the tasks have to finish, instead of [`GRACE`].
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Process {
        Process { grace, ..self }
    }

    /// Cancelled by SIGTERM, by SIGINT and by the early end of a task. Cancelling it is a way to
    /// stop the process in order, from a test for example.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// What `/readyz` reports; tasks add their checks to it.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// What `/metrics` reports; register metrics before the process runs.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Where tasks note their spans; call it once. They are sent while the process runs, and the last
    /// ones after its tasks have ended.
    pub fn tracer(&mut self, settings: &TraceSettings) -> Tracer {
        let (tracer, exporter) = Tracer::new(self.name, settings, &self.spans);
        self.exporter = exporter;
        tracer
    }

    /// Adds a task. It starts in [`Process::run`], once signal handlers are installed, so that a
    /// SIGTERM finds a process that can stop however long the start-up takes; slow start-up belongs
    /// into tasks for that reason.
    ///
    /// A task ends when the stop token is cancelled. Ending before, with or without an error, ends
    /// the process with status 1.
    pub fn spawn<E>(
        &mut self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<BoxError>,
    {
        let work = async move { future.await.map_err(Into::into) };
        self.tasks.push((name, Box::pin(work)));
    }

    /// Opens the ops port, starts the tasks, and waits for the end.
    ///
    /// Success means: a stop was requested, and every task ended without an error in time. A second
    /// signal during the stop ends it at once. Tasks still running at the end are aborted; leave
    /// the runtime with [`crate::block_on`], so that one that does not yield cannot hold the
    /// process.
    ///
    /// Not cancellation safe: dropping this future aborts the tasks.
    pub async fn run(self, settings: OpsSettings) -> ExitCode {
        match Ops::bind(settings) {
            Ok(ops) => self.run_with(ops).await,
            Err(error) => {
                tracing::error!(error = describe(&error), "cannot serve the ops endpoints");
                ExitCode::FAILURE
            }
        }
    }

    /// As [`Process::run`], on a port that is open already.
    pub async fn run_with(mut self, ops: Ops) -> ExitCode {
        let mut signals = match Signals::install() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "cannot install signal handlers");
                return ExitCode::FAILURE;
            }
        };
        self.register_own_metrics();
        let check = self.readiness.check("process");
        let heartbeat = Heartbeat::new();
        let mut background = JoinSet::new();
        background.spawn(heartbeat.clone().run());

        let address = ops.local_addr();
        let server = match ops.serve(OpsState {
            heartbeat,
            max_heartbeat_age: MAX_HEARTBEAT_AGE,
            readiness: self.readiness.clone(),
            registry: Arc::new(self.registry),
        }) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%error, "cannot serve the ops endpoints");
                return ExitCode::FAILURE;
            }
        };
        let server_handle = server.handle();
        tracing::info!(service = self.name, version = VERSION, ops = %address, "started");

        let exporting = self.exporter.map(Exporter::start);
        let mut tasks = Tasks::start(self.tasks);
        let mut server = tokio::spawn(server);
        check.set_ready();
        let ending = tokio::select! {
            ending = tasks.run(&mut signals, &self.stop) => ending,
            _ = &mut server => {
                tracing::error!("the ops endpoints ended unexpectedly, stopping");
                Ending::Failed
            }
        };
        let stopping = Instant::now();
        self.stop.cancel();
        check.set_not_ready("stopping");
        let ending = tasks.finish(&mut signals, self.grace, ending).await;
        if let Some(exporting) = exporting
            && !matches!(ending, Ending::Forced(_))
        {
            let left = self.grace.saturating_sub(stopping.elapsed());
            let limit = left.clamp(*LAST_SPANS.start(), *LAST_SPANS.end());
            tokio::select! {
                () = exporting.finish(limit) => {}
                // Asked again: spans are not worth a wait.
                _ = signals.next() => {}
            }
        }
        // The endpoints answer until the last task is done. A request cut off here is repeated.
        server_handle.stop(false).await;
        tracing::info!(service = self.name, "stopped");
        ending.exit_code()
    }

    fn register_own_metrics(&mut self) {
        let started: SecondsGauge = Registrar::new(&mut self.registry).add(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970-01-01 UTC",
        );
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        started.set(since_epoch.unwrap_or_default().as_secs_f64());
        self.registry.register(
            "build",
            "Name and version of the service; always 1",
            Info::new(vec![("service", self.name), ("version", VERSION)]),
        );
    }
}
