//! Puts the relay together and runs it: waits for what it needs, then works until it is stopped.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use domain::Slot;
use futures::FutureExt;
use service::retry::bounds;
use service::{CancellationToken, Check, Process, Readiness, Tracer, until_ready};
use storage::lease::{Keeper, LeasedWorkError, run_leased};
use storage::migrations::{self, NotReady};
use storage::outbox::{Unfit, check_fitness};
use storage::{Database, Session};
use tokio::sync::Notify;

use crate::adapters;
use crate::lease::{LEASE_SCOPE, NAME};
use crate::maintenance::health::Health;
use crate::maintenance::observer::Observer;
use crate::maintenance::retention::Cleaner;
use crate::metrics::Metrics;
use crate::pipeline::relay::{Relay, RelayError};
use crate::pipeline::start::Pipeline;
use crate::pipeline::wake_up::Listener;
use crate::ports::{Ports, Role};
use crate::settings::Settings;
use crate::slow_reads::SlowReads;
use crate::topics::refresh::RouteKeeper;
use crate::unavailable::circuits::Circuits;
use crate::unavailable::recovery::{MissingTopics, Recovery, Turns};

/// Why a relay ended.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Relay(#[from] LeasedWorkError<RelayError>),
}

/// Runs the relay as a process; returns its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    let mut process = Process::new(NAME);
    let metrics = Metrics::register(process.registry());
    let tracer = process.tracer(&settings.telemetry.traces);
    let (stop, readiness) = (process.stop(), process.readiness());
    let ops = settings.ops;
    process.spawn("relay", relay(settings, metrics, tracer, readiness, stop));
    process.run(ops).await
}

async fn relay(
    settings: Settings,
    metrics: Metrics,
    tracer: Tracer,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let schema = readiness.check("schema");
    let database = &settings.database;
    let Some(unfit) = until_ready(
        &schema,
        &stop,
        bounds::START,
        "Postgres and its schema",
        || look_at(database),
    )
    .await
    else {
        return Ok(());
    };
    if let Some(unfit) = unfit {
        return Err(unfit.into());
    }

    let assembly = Assembly::new(&settings, metrics, &readiness).traced(tracer);
    Ok(assembly.run(stop).await?)
}

/// A relay and all it needs, wired but not running.
pub struct Assembly {
    pub relay: Relay,
    pub keeper: Keeper,
    pub background: BackgroundTasks,
}

/// Beside the relay: looks up topics, listens for wake-ups, moves unavailable events back, observes,
/// deletes what is old.
pub struct BackgroundTasks {
    observer: Observer,
    cleaner: Cleaner,
    recovery: Recovery,
    route_keeper: RouteKeeper,
    listener: Listener,
    kafka: Check,
}

impl Assembly {
    /// Wires a relay to the Postgres and the Kafka that the settings name; must be called on a
    /// runtime, since the relay's settler starts at once.
    pub fn new(settings: &Settings, metrics: Metrics, readiness: &Readiness) -> Self {
        Self::on(&adapters::ports(settings), settings, metrics, readiness)
    }

    /// The same on other ports.
    pub fn on(ports: &Ports, settings: &Settings, metrics: Metrics, readiness: &Readiness) -> Self {
        let health = Health::new(readiness);
        let Ports { outbox, producer } = ports;
        let (keeper, leases) = Keeper::on(
            outbox.leases(),
            LEASE_SCOPE,
            settings.worker.lease_ttl,
            Slot::COUNT.into(),
        );
        let (route_keeper, routes) = RouteKeeper::new(Arc::clone(producer), settings.worker);
        let wake = Arc::new(Notify::new());
        let (circuits, missing) = (Circuits::default(), MissingTopics::default());
        let background = BackgroundTasks {
            observer: Observer {
                connection: outbox.connection(Role::Maintenance),
                leases: leases.clone(),
                topics: routes.topics.clone(),
                health: health.clone(),
                metrics: metrics.clone(),
            },
            cleaner: Cleaner {
                outbox: Arc::clone(outbox),
                retention: settings.retention,
                metrics: metrics.clone(),
            },
            recovery: Recovery {
                connection: outbox.connection(Role::Pipeline),
                reads: SlowReads::new(
                    outbox.connection(Role::Pipeline),
                    outbox.statement_timeout(),
                ),
                leases: leases.clone(),
                topics: routes.topics.clone(),
                circuits: circuits.clone(),
                missing: missing.clone(),
                failing: health.failing.clone(),
                postgres: health.postgres.clone(),
                wake: Arc::clone(&wake),
                turns: Turns::default(),
            },
            route_keeper,
            listener: Listener {
                connection: outbox.connection(Role::Pipeline),
                wake: Arc::clone(&wake),
            },
            kafka: health.kafka().clone(),
        };
        let relay = Pipeline {
            ports: ports.clone(),
            limits: settings.limits,
            event_source: settings.event_source.clone(),
            leases,
            routes,
            wake,
            metrics,
            health,
            circuits,
            missing,
        }
        .start();
        Self {
            relay,
            keeper,
            background,
        }
    }

    /// Works until `stop`, then finishes what is in flight and gives the leases back.
    ///
    /// # Errors
    /// When a task ends unexpectedly. Outages are waited out.
    pub async fn run(self, stop: CancellationToken) -> Result<(), LeasedWorkError<RelayError>> {
        let Self {
            relay,
            keeper,
            background,
        } = self;
        // Large: on the heap.
        let relaying = |stop| relay.run(stop).boxed();
        let beside = stop.clone();
        let background = async move { background.run(&beside).await }.boxed();
        run_leased(keeper, &stop, relaying, background).await
    }
}

impl Assembly {
    /// The same, with a span noted for each event that is sent.
    #[must_use]
    pub fn traced(mut self, tracer: Tracer) -> Self {
        self.relay.trace(tracer);
        self
    }
}

impl BackgroundTasks {
    /// Runs until `stop`.
    pub async fn run(self, stop: &CancellationToken) {
        let all = async {
            tokio::join!(
                self.route_keeper.run(&self.kafka, stop),
                self.listener.run(stop),
                self.recovery.run(stop),
                self.observer.run(stop),
                self.cleaner.run(stop),
            )
        };
        // The leases are given back after this: whatever is being looked at, nobody needs it now.
        stop.run_until_cancelled(Box::pin(all)).await;
    }
}

/// One look at the database: whether it can be asked and has the schema (else wait), and whether a
/// relay may work on it at all (else end).
async fn look_at(database: &Database) -> Result<Option<Unfit>, NotReady> {
    let mut conn = migrations::connect_when_ready(database, &Session::request(NAME)).await?;
    Ok(storage::with_timeout(LOOK_DEADLINE, check_fitness(&mut conn)).await?)
}

const LOOK_DEADLINE: Duration = Duration::from_secs(5);
