//! Puts the consumer together and runs it: waits for what it needs, then consumes every registered
//! topic until it is stopped.

use std::process::ExitCode;
use std::sync::Arc;

use messaging::Cluster;
use service::retry::bounds;
use service::{CancellationToken, Process, Readiness, Tracer, until_ready};
use storage::{Session, migrations};

use crate::NAME;
use crate::adapters::postgres::PostgresInboxes;
use crate::assembly::{Assembly, ConsumerError};
use crate::handlers::registry;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Runs the consumer as a process; returns its exit status.
pub async fn run(settings: Settings) -> ExitCode {
    let mut process = Process::new(NAME);
    let metrics = Metrics::register(process.registry());
    let tracer = process.tracer(&settings.telemetry.traces);
    let (stop, readiness) = (process.stop(), process.readiness());
    let ops = settings.ops;
    process.spawn(
        "consumer",
        consume(settings, metrics, tracer, readiness, stop),
    );
    process.run(ops).await
}

async fn consume(
    settings: Settings,
    metrics: Metrics,
    tracer: Tracer,
    readiness: Readiness,
    stop: CancellationToken,
) -> Result<(), ConsumerError> {
    let schema = readiness.check("schema");
    let health = Health::new(&readiness);
    let (database, session) = (&settings.database, Session::request(NAME));
    let schema_ready = until_ready(
        &schema,
        &stop,
        bounds::START,
        "Postgres and its schema",
        || migrations::connect_when_ready(database, &session),
    );
    if schema_ready.await.is_none() {
        return Ok(());
    }
    let assembly = Assembly {
        group: settings.group,
        retention: settings.retention,
        worker: settings.worker,
        registry: registry(),
        inboxes: Arc::new(PostgresInboxes::new(settings.database)),
        records: Arc::new(Cluster::new(settings.brokers)),
        metrics,
        tracer,
        health,
    };
    assembly.run(stop).await
}
