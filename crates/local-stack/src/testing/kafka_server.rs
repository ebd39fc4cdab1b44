//! A Kafka of a test's own, without a Postgres.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use uuid::Uuid;

use super::postgres_server::artifacts;
use crate::artifacts::Artifacts;
use crate::error::StackError;
use crate::files::{create_traversable, own_folder, remove_folder};
use crate::kafka::{Kafka, Membership, Ports, cluster_id};
use crate::{java, ports, processes};

/// A running node, alone in its cluster. It ends with this value, and its data with it.
///
/// Its methods block the thread that calls them, for some seconds at most.
#[derive(Debug)]
pub struct KafkaServer {
    kafka: Kafka,
    artifacts: Artifacts,
    java: PathBuf,
    folder: PathBuf,
    port: u16,
}

impl KafkaServer {
    /// With these settings beside the usual ones of `server.properties`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(settings: &[(String, String)]) -> Self {
        let started = Self::try_start(settings);
        started.unwrap_or_else(|error| panic!("Kafka cannot be started: {error}"))
    }

    fn try_start(settings: &[(String, String)]) -> Result<Self, StackError> {
        let folder = std::env::temp_dir().join(format!("kafka-server-{}", Uuid::now_v7()));
        let folder = own_folder(&folder)?;
        create_traversable(&folder)?;
        let [broker, controller] = ports::free()?;
        let server = Self {
            kafka: Kafka::new(&folder, folder.join("kafka.log")).for_a_while(),
            artifacts: artifacts()?,
            java: java::find()?,
            folder,
            port: broker,
        };
        let alone = Membership {
            cluster_id: &cluster_id(),
            nodes: &[Ports { broker, controller }],
            own: 0,
        };
        let (artifacts, java) = (&server.artifacts, &server.java);
        server.kafka.create(artifacts, java, alone, settings)?;
        server.kafka.start(artifacts, java, broker)?;
        Ok(server)
    }

    /// As in `KAFKA_BROKERS`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it in order. Its data and port stay.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        let ended = self.end(Signal::SIGTERM);
        ended.unwrap_or_else(|error| panic!("stopping Kafka: {error}"));
    }

    /// Ends it without warning. Its data and port stay.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&self) {
        let ended = self.end(Signal::SIGKILL);
        ended.unwrap_or_else(|error| panic!("killing Kafka: {error}"));
    }

    /// Starts it again after [`KafkaServer::kill`] or [`KafkaServer::stop`]; returns once it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&self) {
        let started = self.kafka.start(&self.artifacts, &self.java, self.port);
        started.unwrap_or_else(|error| panic!("starting Kafka: {error}"));
    }

    /// Freezes it: its connections stay open and get no answer.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends a [`KafkaServer::pause`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let found = processes::find(|line| self.kafka.owns(line));
        let found = found.unwrap_or_else(|error| panic!("looking for Kafka: {error}"));
        assert!(!found.is_empty(), "Kafka does not run");
        for pid in found {
            processes::signal(pid, signal);
        }
    }

    fn end(&self, signal: Signal) -> Result<(), StackError> {
        let is_ours = |line: &str| self.kafka.owns(line);
        let found = processes::find(is_ours)?;
        let asked: Vec<_> = found.into_iter().map(|pid| (pid, signal)).collect();
        processes::end(&asked, is_ours, processes::GRACE)
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        let ended = self.end(Signal::SIGKILL);
        if let Err(error) = ended.and_then(|()| remove_folder(&self.folder)) {
            eprintln!("a Kafka stays: {error}");
        }
    }
}
