//! A Kafka node, broker and controller at once, alone or one of several: its folder, its settings,
//! starting it and asking whether it answers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::artifacts::{Artifacts, succeeded};
use crate::error::{IoContext, StackError};
use crate::files::create_traversable;
use crate::readiness;

/// Warnings and errors to standard output, which is the log file.
const LOGGING: &str = "\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
";

/// The ports of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// For clients and other brokers.
    pub(crate) broker: u16,
    /// For the controllers among themselves.
    pub(crate) controller: u16,
}

/// A cluster as one of its nodes sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership<'a> {
    pub(crate) cluster_id: &'a str,
    /// Of all nodes. A node's id is its place in here, counted from 1.
    pub(crate) nodes: &'a [Ports],
    /// The place of the node itself.
    pub(crate) own: usize,
}

/// A Kafka node in its folder.
#[derive(Debug)]
pub(crate) struct Kafka {
    folder: PathBuf,
    log: PathBuf,
    options: Vec<&'static str>,
}

impl Kafka {
    pub(crate) fn new(parent: &Path, log: PathBuf) -> Self {
        let folder = parent.join("kafka");
        Self {
            folder,
            log,
            options: vec![
                "-Xmx512m",
                "-XX:+UseG1GC",
                "-XX:MaxGCPauseMillis=20",
                "-XX:+ExitOnOutOfMemoryError",
            ],
        }
    }

    /// The same for a node of a short life, which begins sooner and never gets fast.
    pub(crate) fn for_a_while(mut self) -> Self {
        self.options.push("-XX:TieredStopAtLevel=1");
        self
    }

    /// Whether a command line is this node's, or this node's making.
    pub(crate) fn owns(&self, command_line: &str) -> bool {
        let is_kafka = [" kafka.Kafka ", " kafka.tools.StorageTool "]
            .iter()
            .any(|main| command_line.contains(main));
        is_kafka && command_line.ends_with(&format!(" {}", self.properties().display()))
    }

    /// Writes the settings, formats an empty log folder and begins a new log file.
    pub(crate) fn create(
        &self,
        artifacts: &Artifacts,
        java: &Path,
        membership: Membership<'_>,
        more_settings: &[(String, String)],
    ) -> Result<(), StackError> {
        create_traversable(&self.folder)?;
        File::create(&self.log).at("create", &self.log)?;
        let properties = self.properties();
        let mut settings = server_properties(membership);
        for (name, value) in more_settings {
            settings.extend([name, "=", value, "\n"]);
        }
        fs::write(&properties, settings).at("write", &properties)?;
        let logging = self.logging();
        fs::write(&logging, LOGGING).at("write", &logging)?;
        let output = self
            .java(
                java,
                artifacts,
                &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
            )
            .args([
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                membership.cluster_id,
                "--config",
            ])
            .arg(&properties)
            .output()
            .at("run", java)?;
        succeeded("formatting Kafka's log folder", &output)
    }

    /// Starts the node on its data and returns once it answers.
    pub(crate) fn start(
        &self,
        artifacts: &Artifacts,
        java: &Path,
        port: u16,
    ) -> Result<u32, StackError> {
        let mut child = self.spawn(artifacts, java)?;
        let pid = child.id();
        let outcome = readiness::wait("Kafka", &mut child, &self.log, || answers(port));
        readiness::reap(child);
        outcome.map(|()| pid)
    }

    fn spawn(&self, artifacts: &Artifacts, java: &Path) -> Result<Child, StackError> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .at("open", &self.log)?;
        let also_log = log.try_clone().at("open", &self.log)?;
        self.java(java, artifacts, &self.options)
            .arg("kafka.Kafka")
            .arg(self.properties())
            .stdout(log)
            .stderr(also_log)
            // A group of its own: an interrupt at the terminal is not for the server.
            .process_group(0)
            .spawn()
            .at("run", java)
    }

    fn java(&self, java: &Path, artifacts: &Artifacts, options: &[&str]) -> Command {
        let mut command = Command::new(java);
        command.args(options).arg("-Djava.awt.headless=true");
        command.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.logging().display()
        ));
        command.arg("-cp").arg(artifacts.kafka_class_path());
        // `log.dirs` is relative to it.
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    fn properties(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn logging(&self) -> PathBuf {
        self.folder.join("log4j2.properties")
    }
}

/// The settings of a node that answers clients on one port and other controllers on another. What a
/// cluster keeps for itself has as many replicas as there are nodes.
fn server_properties(Membership { nodes, own, .. }: Membership<'_>) -> String {
    let Ports { broker, controller } = nodes[own];
    let voters = (1..).zip(nodes);
    let voters: Vec<String> = voters
        .map(|(id, node)| format!("{id}@127.0.0.1:{}", node.controller))
        .collect();
    let (id, voters, replicas) = (own + 1, voters.join(","), nodes.len());
    // All but one, if there are several.
    let in_sync = replicas.saturating_sub(1).max(1);
    format!(
        "\
process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
metric.reporters=
"
    )
}

/// Kafka's notation for 16 bytes.
pub(crate) fn cluster_id() -> String {
    URL_SAFE_NO_PAD.encode(Uuid::now_v7().as_bytes())
}

/// Whether a node answers a request, within five seconds. It does so only once it has joined its
/// cluster.
pub(crate) fn answers(port: u16) -> bool {
    api_versions(port).is_ok_and(|error_code| error_code == 0)
}

/// Asks for the versions of the protocol (request 18, version 0) and returns the answer's error
/// code.
fn api_versions(port: u16) -> std::io::Result<i16> {
    // Length, request, version, correlation id, no client id.
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let limit = Duration::from_secs(5);
    let mut socket =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit)?;
    socket.set_read_timeout(Some(limit))?;
    socket.set_write_timeout(Some(limit))?;
    socket.write_all(&REQUEST)?;
    // Length, correlation id, error code.
    let mut answer = [0; 10];
    socket.read_exact(&mut answer)?;
    if answer[4..8] != REQUEST[8..12] {
        return Err(std::io::Error::other(
            "the answer belongs to another request",
        ));
    }
    Ok(i16::from_be_bytes([answer[8], answer[9]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(nodes: &[Ports], own: usize) -> String {
        let cluster_id = "any";
        server_properties(Membership {
            cluster_id,
            nodes,
            own,
        })
    }

    #[test]
    fn the_settings_of_one_of_several_name_all_controllers() {
        let nodes = [20_001, 20_003, 20_005].map(|broker| Ports {
            broker,
            controller: broker + 1,
        });
        let rendered = rendered(&nodes, 1);
        for line in [
            "node.id=2",
            "controller.quorum.voters=1@127.0.0.1:20002,2@127.0.0.1:20004,3@127.0.0.1:20006",
            "listeners=PLAINTEXT://127.0.0.1:20003,CONTROLLER://127.0.0.1:20004",
            "min.insync.replicas=2",
            "offsets.topic.replication.factor=3",
        ] {
            assert!(rendered.lines().any(|l| l == line), "{line}\n{rendered}");
        }
    }

    #[test]
    fn the_settings_name_both_ports() {
        let alone = Ports {
            broker: 20_001,
            controller: 20_002,
        };
        let rendered = rendered(&[alone], 0);
        for line in [
            "listeners=PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002",
            "advertised.listeners=PLAINTEXT://127.0.0.1:20001",
            "controller.quorum.voters=1@127.0.0.1:20002",
            "auto.create.topics.enable=false",
        ] {
            assert!(
                rendered.lines().any(|rendered| rendered == line),
                "{line} is not in\n{rendered}"
            );
        }
        assert!(
            rendered
                .lines()
                .all(|line| line.contains('=') && !line.contains(' ')),
            "{rendered}"
        );
    }

    #[test]
    fn a_cluster_id_is_22_characters() {
        assert_eq!(cluster_id().len(), 22);
        assert_ne!(cluster_id(), cluster_id());
    }

    #[test]
    fn only_the_node_of_this_folder_is_owned() {
        let kafka = Kafka::new(Path::new("/state/a"), "/log".into());
        assert!(kafka.owns("java -cp /x/* kafka.Kafka /state/a/kafka/server.properties"));
        assert!(kafka.owns(
            "java -cp /x/* kafka.tools.StorageTool format --config /state/a/kafka/server.properties"
        ));
        assert!(!kafka.owns("java -cp /x/* kafka.Kafka /state/b/kafka/server.properties"));
        assert!(!kafka.owns("vi /state/a/kafka/server.properties"));
    }

    #[test]
    fn a_port_where_nothing_listens_does_not_answer() {
        let [port] = crate::ports::free().unwrap();
        assert!(!answers(port));
    }
}
