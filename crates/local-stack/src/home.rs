//! The state folder of a stack that exists: its record, its processes, its data.
//!
//! `stack.json` is written once both servers answer and removed before they are ended. What runs
//! without it, or beside it, is a leftover; it is found by its command line, which holds the state
//! folder, and ended before the next start. So it makes no difference at which point an `up` was
//! killed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::artifacts::Artifacts;
use crate::error::{IoContext, StackError};
use crate::files::{create_traversable, default_folder, own_folder, remove_folder, write_whole};
use crate::kafka::{Kafka, Membership, Ports, cluster_id};
use crate::postgres::Postgres;
use crate::stack::{Server, Stack};
use crate::{java, kafka, ports, postgres, processes};

/// What `stack.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    postgres_pid: u32,
    postgres_port: u16,
    kafka_pid: u32,
    kafka_port: u16,
}

/// A state folder that exists and is ours.
pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    data: PathBuf,
    cache: PathBuf,
    postgres: Postgres,
    kafka: Kafka,
}

impl Home {
    pub(crate) fn open(folder: &Path) -> Result<Self, StackError> {
        let folder = own_folder(folder)?;
        // What is fetched is shared by all stacks of the workspace.
        let cache = own_folder(&default_folder())?.join("artifacts");
        // `down` removes it whole, so it must not be a name that a folder somebody chose may have.
        let data = folder.join("local-stack-data");
        Ok(Self {
            postgres: Postgres::new(&data, folder.join("postgres.log")),
            kafka: Kafka::new(&data, folder.join("kafka.log")),
            folder,
            data,
            cache,
        })
    }

    /// Held by whoever starts or ends servers of this folder; the system releases it with the file,
    /// also after a kill.
    pub(crate) fn lock(&self) -> Result<File, StackError> {
        let path = self.folder.join("lock");
        let file = File::create(&path).at("create", &path)?;
        file.lock().at("lock", &path)?;
        Ok(file)
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("stack.json")
    }

    /// `None` also for one that cannot be read: what it would have told is found by the command
    /// lines.
    pub(crate) fn read(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path()).ok()?).ok()
    }

    fn write(&self, record: &Record) -> Result<(), StackError> {
        let json =
            serde_json::to_string_pretty(record).expect("numbers under string keys are JSON");
        write_whole(&self.record_path(), &json)
    }

    /// The stack of `stack.json`, if both servers are alive and answer.
    pub(crate) fn running(&self) -> Option<Record> {
        let record = self.read()?;
        let alive = [Server::Postgres, Server::Kafka]
            .iter()
            .all(|server| self.lives(*server, &record));
        (alive && postgres::answers(record.postgres_port) && kafka::answers(record.kafka_port))
            .then_some(record)
    }

    fn owns(&self, server: Server, command_line: &str) -> bool {
        match server {
            Server::Postgres => self.postgres.owns(command_line),
            Server::Kafka => self.kafka.owns(command_line),
        }
    }

    pub(crate) fn lives(&self, server: Server, record: &Record) -> bool {
        processes::command_line(record.pid(server)).is_some_and(|line| self.owns(server, &line))
    }

    /// Makes and starts both servers, side by side.
    pub(crate) fn start(&self, kafka_settings: &[(String, String)]) -> Result<Record, StackError> {
        let java = java::find()?;
        let artifacts = Artifacts::ensure(&self.cache)?;
        create_traversable(&self.data)?;
        let [postgres_port, kafka_port, controller_port] = ports::free()?;
        let (postgres_pid, kafka_pid) = thread::scope(|scope| {
            let postgres = scope.spawn(|| {
                self.postgres.create(&artifacts)?;
                let pid = self.postgres.start(&artifacts, postgres_port)?;
                Postgres::create_database(postgres_port).map(|()| pid)
            });
            let alone = Membership {
                cluster_id: &cluster_id(),
                nodes: &[Ports {
                    broker: kafka_port,
                    controller: controller_port,
                }],
                own: 0,
            };
            let kafka = self
                .kafka
                .create(&artifacts, &java, alone, kafka_settings)
                .and_then(|()| self.kafka.start(&artifacts, &java, kafka_port));
            (
                postgres
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                kafka,
            )
        });
        let record = Record {
            postgres_pid: postgres_pid?,
            postgres_port,
            kafka_pid: kafka_pid?,
            kafka_port,
        };
        self.write(&record)?;
        Ok(record)
    }

    /// Starts one server on its data and port, unless it runs.
    pub(crate) fn start_one(
        &self,
        server: Server,
        mut record: Record,
    ) -> Result<Record, StackError> {
        let _lock = self.lock()?;
        if self.lives(server, &record) {
            return Ok(record);
        }
        let artifacts = Artifacts::ensure(&self.cache)?;
        match server {
            Server::Postgres => {
                record.postgres_pid = self.postgres.start(&artifacts, record.postgres_port)?;
            }
            Server::Kafka => {
                let java = java::find()?;
                record.kafka_pid = self.kafka.start(&artifacts, &java, record.kafka_port)?;
            }
        }
        self.write(&record)?;
        Ok(record)
    }

    /// Ends whatever of this folder runs and removes its data; `false` if nothing ran.
    pub(crate) fn clear(&self) -> Result<bool, StackError> {
        match fs::remove_file(self.record_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).at("remove", &self.record_path());
            }
            _ => {}
        }
        let ran = self.end_all()?;
        remove_folder(&self.data)?;
        Ok(ran)
    }

    /// Ends every process of this folder, recorded or not; `false` if there was none.
    pub(crate) fn end_all(&self) -> Result<bool, StackError> {
        let mut asked = Vec::new();
        for server in [Server::Postgres, Server::Kafka] {
            let pids = processes::find(|line| self.owns(server, line))?;
            asked.extend(pids.into_iter().map(|pid| (pid, server.graceful())));
        }
        let is_ours = |line: &str| self.postgres.owns(line) || self.kafka.owns(line);
        processes::end(&asked, is_ours, processes::GRACE)?;
        Ok(!asked.is_empty())
    }

    pub(crate) fn end_one(
        &self,
        server: Server,
        record: &Record,
        signal: Signal,
    ) -> Result<(), StackError> {
        let _lock = self.lock()?;
        if !self.lives(server, record) {
            return Ok(());
        }
        processes::end(
            &[(record.pid(server), signal)],
            |line| self.owns(server, line),
            processes::GRACE,
        )
    }
}

impl Server {
    /// Postgres: end the clients, then shut down. Kafka: shut down.
    pub(crate) fn graceful(self) -> Signal {
        match self {
            Self::Postgres => Signal::SIGINT,
            Self::Kafka => Signal::SIGTERM,
        }
    }
}

impl Record {
    pub(crate) fn pid(&self, server: Server) -> u32 {
        match server {
            Server::Postgres => self.postgres_pid,
            Server::Kafka => self.kafka_pid,
        }
    }
}

impl From<Record> for Stack {
    fn from(record: Record) -> Self {
        Self {
            database_url: postgres::url(record.postgres_port),
            kafka_brokers: format!("127.0.0.1:{}", record.kafka_port),
            postgres_pid: record.postgres_pid,
            kafka_pid: record.kafka_pid,
        }
    }
}
