//! Puts the consumer together and runs it: waits for what it needs, then consumes every registered
//! topic until it is stopped.

use std::process::ExitCode;

use messaging::Cluster;
use service::retry::bounds;
use service::{CancellationToken, Process, Readiness, ReadinessIssues, Tracer, until_ready};
use storage::{Session, migrations};
use tokio::task::{JoinError, JoinSet};

use crate::NAME;
use crate::handlers::registry;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::topic::{TopicConsumer, TopicError};

/// Why a consumer ended.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("{topic}: {source}")]
    Topic { topic: String, source: TopicError },
    #[error("the consumer of a topic ended unexpectedly: {0}")]
    Died(JoinError),
}

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
) -> Result<(), AppError> {
    let (schema, kafka) = (readiness.check("schema"), readiness.check("kafka"));
    let (postgres, progress) = (readiness.check("postgres"), readiness.check("progress"));
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
    postgres.ready();
    let registry = registry();
    let (postgres, kafka) = (ReadinessIssues::new(postgres), ReadinessIssues::new(kafka));
    let progress = ReadinessIssues::new(progress);
    let starting = registry.topics().into_iter();
    kafka.update(starting.map(|topic| (topic, Some("starting"))));
    let cluster = Cluster::new(settings.brokers.clone());
    let (work, mut topics) = (stop.child_token(), JoinSet::new());
    for topic in registry.topics() {
        let consumer = TopicConsumer {
            topic: topic.clone(),
            settings: settings.clone(),
            cluster: cluster.clone(),
            registry: registry.clone(),
            metrics: metrics.of(&topic),
            tracer: tracer.clone(),
            postgres: postgres.clone(),
            kafka: kafka.clone(),
            progress: progress.clone(),
        };
        let running = consumer.run(work.clone());
        topics.spawn(async move {
            let ended = running.await;
            ended.map_err(|source| AppError::Topic { topic, source })
        });
    }
    // When one ends, for whatever reason, the others give their leases back and end too.
    let mut outcome = Ok(());
    while let Some(ended) = topics.join_next().await {
        work.cancel();
        let ended = ended.map_err(AppError::Died).and_then(|ended| ended);
        outcome = outcome.and(ended);
    }
    outcome
}
