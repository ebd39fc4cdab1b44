//! Puts the consumer together and runs it: waits for what it needs, then works until it is stopped.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use domain::OrderCreated;
use messaging::{Cluster, KafkaError};
use service::{
    Backoff, CancellationToken, Problems, Process, Readiness, Tracer, WorkerSettings, until_ready,
};
use storage::inbox::Stream;
use storage::lease::{Keeper, Leases};
use storage::{DedicatedConnection, Session, migrations};
use tracing::info;

use crate::apply::effects::Effects;
use crate::assignment::{StartConsumer, follow};
use crate::membership::{Membership, PartitionCount};
use crate::metrics::Metrics;
use crate::partition::PartitionConsumer;
use crate::partition::Wiring;
use crate::partition::progress::{self, Standings};
use crate::retention::{Cleaner, Pass};
use crate::settings::Settings;

const NAME: &str = "order-consumer";

/// Partitions may be added at any time; this is how soon they are taken up, at the latest.
const GROWTH_INTERVAL: Duration = Duration::from_secs(20);
/// And how soon Kafka is asked again when it did not answer.
const GROWTH_RETRY: Duration = Duration::from_secs(2);

/// Why a consumer ended.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("the consumer of a partition died: {0}")]
    Consumer(tokio::task::JoinError),
    #[error("the task that renews leases died: {0}")]
    Keeper(tokio::task::JoinError),
    #[error("the task that renews leases ended early")]
    KeeperLeft,
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
    let backoff = || Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let (database, session) = (&settings.database, Session::request(NAME));
    let schema_ready = until_ready(&schema, &stop, backoff(), "Postgres and its schema", || {
        migrations::connect_when_ready(database, &session)
    });
    if schema_ready.await.is_none() {
        return Ok(());
    }
    postgres.ready();
    let cluster = Cluster::new(settings.brokers.clone());
    let topic = OrderCreated::TOPIC;
    let (cluster_ref, worker) = (&cluster, settings.worker);
    let Some(partitions) = until_ready(&kafka, &stop, backoff(), "Kafka", || {
        partition_count(cluster_ref, topic, worker)
    })
    .await
    else {
        return Ok(());
    };

    let (keeper, leases) = Keeper::new(
        settings.database.clone(),
        Session::leased(NAME, worker.lease_ttl),
        Stream::lease_scope(&settings.group, topic),
        worker.lease_ttl,
        partitions,
    );
    let standings = Standings::default();
    let cleaner = Cleaner {
        group: settings.group.clone(),
        topic: topic.to_owned(),
        database: settings.database.clone(),
        session: Session::request(NAME),
        cluster: cluster.clone(),
        leases: leases.clone(),
        metrics: metrics.clone(),
        retention: settings.retention,
        pass: Pass::default(),
    };
    let (postgres, kafka) = (Problems::new(postgres), Problems::new(kafka));
    let (progress, count) = (Problems::new(progress), PartitionCount::new(partitions));
    let membership = Membership {
        connection: DedicatedConnection::new(settings.database.clone(), Session::request(NAME)),
        scope: Stream::lease_scope(&settings.group, topic),
        member: leases.member(),
        topic: topic.to_owned(),
        partitions: count.clone(),
        postgres: postgres.clone(),
        progress: progress.clone(),
    };
    let consumers = Consumers {
        settings,
        cluster: cluster.clone(),
        leases: leases.clone(),
        effects: Effects::default(),
        metrics: metrics.clone(),
        tracer,
        standings: standings.clone(),
        postgres,
        kafka: kafka.clone(),
    };
    // The leases end last: what is in flight is ours only while they are renewed.
    let (work, leave) = (stop.child_token(), CancellationToken::new());
    let mut keeper = tokio::spawn(keeper.run(leave.clone()));
    let owned = |count| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        metrics.partitions_owned.set(count);
    };
    let beside = async {
        tokio::join!(
            watch_growth(&cluster, topic, worker, (&leases, &count), &kafka),
            progress::watch(topic, &standings, &metrics, &progress),
            cleaner.run(),
            membership.watch(),
        )
    };
    let (outcome, _) = tokio::join!(
        async {
            let outcome = tokio::select! {
                ended = follow(leases.clone(), consumers, owned, work.clone()) => ended.map_err(AppError::Consumer),
                died = &mut keeper => Err(died.map_or_else(AppError::Keeper, |()| AppError::KeeperLeft)),
            };
            work.cancel();
            outcome
        },
        // Whatever is being looked at, nobody needs it after that.
        work.run_until_cancelled(Box::pin(beside)),
    );
    outcome?;
    leave.cancel();
    keeper.await.map_err(AppError::Keeper)
}

/// How many partitions the topic has; creates it when it is missing.
async fn partition_count(
    cluster: &Cluster,
    topic: &str,
    worker: WorkerSettings,
) -> Result<i32, KafkaError> {
    let WorkerSettings {
        topic_partitions,
        replication_factor,
        ..
    } = worker;
    let created = cluster
        .ensure_topic(topic, topic_partitions, replication_factor)
        .await?;
    if created {
        info!(
            topic,
            topic_partitions, replication_factor, "created a topic"
        );
    }
    let counts = cluster.partition_counts().await?;
    match counts.get(topic) {
        Some(count) => Ok(*count),
        // It may not show yet; its count is known all the same.
        None if created => Ok(topic_partitions),
        None => Err(KafkaError::hidden_topic()),
    }
}

/// Looks until it is dropped.
async fn watch_growth(
    cluster: &Cluster,
    topic: &str,
    worker: WorkerSettings,
    (leases, partitions): (&Leases, &PartitionCount),
    kafka: &Problems,
) -> Infallible {
    let mut pause = GROWTH_INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        // Whoever owns no partition has no other way to see that Kafka is away.
        match partition_count(cluster, topic, worker).await {
            Ok(count) => {
                kafka.clear(topic);
                leases.resize(count).await;
                partitions.set(count);
                pause = GROWTH_INTERVAL;
            }
            Err(error) => {
                kafka.report(topic, &error);
                pause = GROWTH_RETRY;
            }
        }
    }
}

struct Consumers {
    settings: Settings,
    cluster: Cluster,
    leases: Leases,
    effects: Effects,
    metrics: Metrics,
    tracer: Tracer,
    standings: Standings,
    postgres: Problems,
    kafka: Problems,
}

impl StartConsumer for Consumers {
    fn start(
        &self,
        partition: i32,
        epoch: i64,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let consumer = PartitionConsumer::new(Wiring {
            stream: Stream {
                group: self.settings.group.clone(),
                topic: OrderCreated::TOPIC.to_owned(),
                partition,
            },
            database: self.settings.database.clone(),
            session: Session::leased(NAME, self.settings.worker.lease_ttl),
            cluster: self.cluster.clone(),
            leases: self.leases.clone(),
            epoch,
            effects: self.effects.clone(),
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            standings: self.standings.clone(),
            postgres: self.postgres.clone(),
            kafka: self.kafka.clone(),
        });
        consumer.run(stop)
    }
}
