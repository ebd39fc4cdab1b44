//! The services' processes: started, stopped, killed and frozen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use order_consumer::handlers::Handler;
use outbox_relay::ports::Ports;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry as MetricsRegistry;
use service::{CancellationToken, Readiness, Source, Tracer};

use crate::event::{TOPICS, Ticked};
use crate::ports::{SimInboxes, SimOutbox, SimProducer, SimSource};
use crate::world::{Host, Sim};

/// The consumer group.
pub const GROUP: &str = "group";

/// Which service a process is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Relay,
    Consumer,
}

/// How the services are set up.
#[derive(Debug, Clone)]
pub struct Settings {
    pub lease_ttl: Duration,
    pub partitions: i32,
    pub events_per_slot: i64,
    pub outbox_retention: Duration,
    pub inbox_retention: Duration,
}

/// A process that was started.
#[derive(Clone)]
pub struct Process {
    pub host: Host,
    pub readiness: Readiness,
    /// Of a relay: events that it has sent again since it did not know whether Kafka has them.
    resent: Counter,
    stop: CancellationToken,
    /// Cancelled when it has ended by itself.
    ended: CancellationToken,
}

/// All that were started, the dead among them.
pub struct Processes {
    sim: Sim,
    settings: Settings,
    started: BTreeMap<Service, Vec<Process>>,
}

impl Processes {
    pub fn new(sim: &Sim, settings: Settings) -> Self {
        Self {
            sim: sim.clone(),
            settings,
            started: BTreeMap::new(),
        }
    }

    /// Those of a service that run.
    pub fn running(&self, service: Service) -> Vec<Process> {
        let all = self.started.get(&service).into_iter().flatten();
        all.filter(|process| process.is_running())
            .cloned()
            .collect()
    }

    /// Starts another one.
    pub fn start(&mut self, service: Service) {
        let all = self.started.entry(service).or_default();
        let number = all.len() + 1;
        let name = match service {
            Service::Relay => format!("relay {number}"),
            Service::Consumer => format!("consumer {number}"),
        };
        let mut process = Process {
            host: Host::start(&self.sim, name),
            readiness: Readiness::new(),
            resent: Counter::default(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        match service {
            Service::Relay => relay(&mut process, &self.settings),
            Service::Consumer => consumer(&process, &self.settings),
        }
        all.push(process);
    }
}

impl Process {
    /// Whether it works: it lives, and was not told to stop.
    pub fn is_running(&self) -> bool {
        self.host.is_alive() && !self.stop.is_cancelled()
    }

    /// What it has counted of the events that it has sent again.
    pub fn resent(&self) -> u64 {
        self.resent.get()
    }

    /// SIGTERM. It has ten seconds, as the services promise.
    pub fn stop(&self) {
        self.host.note(|| "is told to stop".to_owned());
        self.stop.cancel();
        let this = self.clone();
        tokio::spawn(async move {
            let ended = this.ended.cancelled();
            if tokio::time::timeout(Duration::from_secs(10), ended)
                .await
                .is_err()
            {
                this.host.crash();
            }
        });
    }

    fn spawn<E: std::fmt::Display>(
        &self,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let this = self.clone();
        tokio::spawn(async move {
            let outcome = work.await;
            if let Err(error) = outcome
                && this.host.is_alive()
            {
                let name = this.host.name();
                this.host.sim.violated(format!("{name} ended: {error}"));
            }
            this.ended.cancel();
            this.host.leave();
        });
    }
}

fn relay(process: &mut Process, settings: &Settings) {
    let variables = [
        (
            "DATABASE_URL",
            "postgres://relay@simulated/orders".to_owned(),
        ),
        ("KAFKA_BROKERS", "simulated:9092".to_owned()),
        ("KAFKA_TOPIC_PARTITIONS", settings.partitions.to_string()),
        (
            "RELAY__BATCH_EVENTS_PER_SLOT",
            settings.events_per_slot.to_string(),
        ),
    ];
    let source = Source::from_pairs(variables).expect("these are settings");
    let mut typed = outbox_relay::Settings::read(&source).expect("these are valid");
    typed.worker.lease_ttl = settings.lease_ttl;
    typed.retention = settings.outbox_retention;
    let ports = Ports {
        outbox: Arc::new(SimOutbox {
            host: process.host.clone(),
            lease_ttl: settings.lease_ttl,
        }),
        producer: Arc::new(SimProducer {
            host: process.host.clone(),
        }),
    };
    let metrics = outbox_relay::Metrics::register(&mut MetricsRegistry::default());
    process.resent = metrics.resent_after_unknown_outcome.clone();
    let assembly = outbox_relay::app::Assembly::on(&ports, &typed, metrics, &process.readiness);
    process.spawn(assembly.run(process.stop.clone()));
}

/// What consumers consume. The world notes the effects itself.
pub fn registry() -> order_consumer::Registry {
    TOPICS
        .into_iter()
        .fold(order_consumer::Registry::default(), |registry, topic| {
            let none: Vec<Box<dyn Handler<Ticked>>> = Vec::new();
            registry.register_on::<Ticked>(topic, none)
        })
}

fn consumer(process: &Process, settings: &Settings) {
    let host = &process.host;
    let assembly = order_consumer::Assembly {
        group: GROUP.to_owned(),
        retention: settings.inbox_retention,
        worker: service::WorkerSettings {
            lease_ttl: settings.lease_ttl,
            topic_partitions: settings.partitions,
            replication_factor: 1,
        },
        registry: registry(),
        inboxes: Arc::new(SimInboxes { host: host.clone() }),
        records: Arc::new(SimSource { host: host.clone() }),
        metrics: order_consumer::Metrics::register(&mut MetricsRegistry::default()),
        tracer: Tracer::default(),
        health: order_consumer::Health::new(&process.readiness),
    };
    process.spawn(assembly.run(process.stop.clone()));
}
