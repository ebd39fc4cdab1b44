//! A Kafka of three nodes, for tests of what a cluster does while one of them is away.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::signal::Signal;

use crate::artifacts::Artifacts;
use crate::error::StackError;
use crate::files::{create_traversable, default_folder, own_folder, remove_folder};
use crate::kafka::{Kafka, Membership, Ports, cluster_id};
use crate::{java, ports, processes};

/// Three nodes, each broker and controller at once. A partition of three replicas takes records
/// while two of them are in sync. Everything ends with this value, and the data goes.
///
/// Its methods block, for some seconds at most.
#[derive(Debug)]
pub struct KafkaCluster {
    folder: PathBuf,
    artifacts: Artifacts,
    java: PathBuf,
    nodes: [Node; Self::NODES],
}

#[derive(Debug)]
struct Node {
    kafka: Kafka,
    port: u16,
    /// Of its latest process.
    pid: Mutex<Option<u32>>,
}

impl KafkaCluster {
    /// Their ids are `1..=NODES`.
    pub const NODES: usize = 3;

    /// Starts a cluster in this folder, which need not exist yet, and returns when all of its nodes
    /// answer.
    ///
    /// # Errors
    /// See [`StackError`]; what was started before the failure is ended again.
    pub fn start(folder: &Path) -> Result<Self, StackError> {
        let folder = own_folder(folder)?;
        let artifacts = Artifacts::ensure(&own_folder(&default_folder())?.join("artifacts"))?;
        let ports: [u16; 2 * Self::NODES] = ports::free()?;
        let ports: [Ports; Self::NODES] = std::array::from_fn(|place| Ports {
            broker: ports[2 * place],
            controller: ports[2 * place + 1],
        });
        let nodes = std::array::from_fn(|place| {
            let id = place + 1;
            let parent = folder.join(format!("node-{id}"));
            let log = Self::log(&folder, id);
            Node {
                kafka: Kafka::new(&parent, log),
                port: ports[place].broker,
                pid: Mutex::new(None),
            }
        });
        let cluster = Self {
            java: java::find()?,
            folder,
            artifacts,
            nodes,
        };
        let cluster_id = cluster_id();
        // None of them answers before most of them run.
        cluster.each(|place, node| {
            let membership = Membership {
                cluster_id: &cluster_id,
                nodes: &ports,
                own: place,
            };
            create_traversable(&cluster.folder.join(format!("node-{}", place + 1)))?;
            let (artifacts, java) = (&cluster.artifacts, &cluster.java);
            node.kafka.create(artifacts, java, membership, &[])?;
            cluster.run(node)
        })?;
        Ok(cluster)
    }

    /// `127.0.0.1:PORT` of all brokers, joined by commas, as in `KAFKA_BROKERS`.
    pub fn brokers(&self) -> String {
        let brokers = self.nodes.iter();
        let brokers = brokers.map(|node| format!("127.0.0.1:{}", node.port));
        brokers.collect::<Vec<_>>().join(",")
    }

    /// `127.0.0.1:PORT` of one node.
    ///
    /// # Panics
    /// When there is no node of this id.
    pub fn broker(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.node(id).port)
    }

    /// Where a node keeps its records, before there is anything in it.
    pub fn data(folder: &Path, id: usize) -> PathBuf {
        folder.join(format!("node-{id}/kafka/data"))
    }

    /// The log file of a node.
    pub fn log(folder: &Path, id: usize) -> PathBuf {
        folder.join(format!("kafka-{id}.log"))
    }

    /// Kills a node and waits until it is gone. Its data and port stay.
    ///
    /// # Errors
    /// When it does not end.
    ///
    /// # Panics
    /// When there is no node of this id.
    pub fn kill(&self, id: usize) -> Result<(), StackError> {
        let node = self.node(id);
        let Some(pid) = node.pid().take() else {
            return Ok(());
        };
        let is_its = |line: &str| node.kafka.owns(line);
        processes::end(&[(pid, Signal::SIGKILL)], is_its, processes::GRACE)
    }

    /// Starts a killed node on its data and port, and waits until it answers.
    ///
    /// # Errors
    /// See [`StackError`].
    ///
    /// # Panics
    /// When there is no node of this id.
    pub fn start_again(&self, id: usize) -> Result<(), StackError> {
        self.run(self.node(id))
    }

    /// Freezes a node: its connections stay open and get no answer.
    ///
    /// # Panics
    /// When there is no node of this id.
    pub fn pause(&self, id: usize) {
        self.node(id).signal(Signal::SIGSTOP);
    }

    /// Ends a [`KafkaCluster::pause`].
    ///
    /// # Panics
    /// When there is no node of this id.
    pub fn resume(&self, id: usize) {
        self.node(id).signal(Signal::SIGCONT);
    }

    fn node(&self, id: usize) -> &Node {
        &self.nodes[id - 1]
    }

    fn run(&self, node: &Node) -> Result<(), StackError> {
        let pid = node.kafka.start(&self.artifacts, &self.java, node.port)?;
        *node.pid() = Some(pid);
        Ok(())
    }

    /// Does this for all nodes at once.
    fn each(
        &self,
        work: impl Fn(usize, &Node) -> Result<(), StackError> + Sync,
    ) -> Result<(), StackError> {
        thread::scope(|scope| {
            let nodes = self.nodes.iter().enumerate();
            let running: Vec<_> = nodes
                .map(|(place, node)| {
                    scope.spawn({
                        let work = &work;
                        move || work(place, node)
                    })
                })
                .collect();
            running.into_iter().try_for_each(|work| {
                work.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// Also of those whose start failed: they are found by their command lines.
    fn end(&self) -> Result<(), StackError> {
        let is_ours = |line: &str| self.nodes.iter().any(|node| node.kafka.owns(line));
        let pids = processes::find(is_ours)?;
        let asked: Vec<_> = pids.into_iter().map(|pid| (pid, Signal::SIGKILL)).collect();
        processes::end(&asked, is_ours, processes::GRACE)?;
        if thread::panicking() {
            // The logs stay for a look at the failure.
            return Ok(());
        }
        remove_folder(&self.folder)
    }
}

impl Node {
    fn pid(&self) -> MutexGuard<'_, Option<u32>> {
        self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = *self.pid() {
            processes::signal(pid, signal);
        }
    }
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("a Kafka cluster stays: {error}");
        }
    }
}
