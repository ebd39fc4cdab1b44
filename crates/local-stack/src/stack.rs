//! A stack as a whole: up, down, status, and single servers for tests of faults.
//!
//! `stack.json` in the state folder is written once both servers answer and removed before they are ended. What runs
//! without it, or beside it, is a leftover; it is found by its command line, which holds the state folder, and ended
//! before the next start. So it makes no difference at which point an `up` was killed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::artifacts::Artifacts;
use crate::error::{IoContext, StackError};
use crate::files::{default_folder, own_folder, remove_folder, write_whole};
use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::{java, kafka, ports, postgres, processes};

/// A running stack: what clients need to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// `postgres://outbox:outbox@127.0.0.1:PORT/outbox`.
    pub database_url: String,
    /// `127.0.0.1:PORT`.
    pub kafka_brokers: String,
    /// Postgres' main process.
    pub postgres_pid: u32,
    /// Kafka's process.
    pub kafka_pid: u32,
}

/// One server of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The Postgres.
    Postgres,
    /// The Kafka node.
    Kafka,
}

/// What `stack.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    postgres_pid: u32,
    postgres_port: u16,
    kafka_pid: u32,
    kafka_port: u16,
}

/// The state folder of a stack, running or not.
///
/// `StackDir::default()` is the one that everybody in a workspace shares: the folder that the environment variable
/// `LOCAL_STACK_DIR` names, else one under the system's temporary folder.
#[derive(Debug, Clone)]
pub struct StackDir {
    folder: PathBuf,
}

impl Default for StackDir {
    fn default() -> Self {
        Self::new(default_folder())
    }
}

impl StackDir {
    /// A stack of one's own in this folder, which need not exist yet. What is fetched is shared with the default stack.
    ///
    /// Ending it is up to the caller, see [`StackDir::down`].
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Whether [`StackDir::up`] can do without Maven and the network.
    pub fn is_fetched() -> bool {
        Artifacts::are_fetched(&cache(&default_folder()))
    }

    /// Starts the stack, or finds it running; returns when both servers answer. Any number of processes and threads may
    /// call it at once: one starts the stack, all get the same. A stack of which a server is gone is started afresh,
    /// without its data.
    ///
    /// Blocks for some seconds, more when there is something to fetch.
    ///
    /// # Errors
    /// See [`StackError`]; what was started before the failure is ended again.
    pub fn up(&self) -> Result<Stack, StackError> {
        let home = Home::open(&self.folder)?;
        if let Some(running) = home.running() {
            return Ok(running.into());
        }
        let _lock = home.lock()?;
        // Somebody else may have started it in the meantime. A busy machine may answer late: ending a stack that
        // others use is worse than to wait.
        if let Some(running) = (0..6).find_map(|_| home.running()) {
            return Ok(running.into());
        }
        home.clear()?;
        match home.start() {
            Ok(record) => Ok(record.into()),
            Err(error) => {
                // The first failure is the one to tell; the next `up` or `down` ends what this leaves.
                let _ = home.end_all();
                Err(error)
            }
        }
    }

    /// Ends the stack and removes its data, but neither the logs nor what was fetched; `false` if nothing ran.
    ///
    /// Blocks until both servers are gone.
    ///
    /// # Errors
    /// See [`StackError`].
    pub fn down(&self) -> Result<bool, StackError> {
        if !self.folder.exists() {
            return Ok(false);
        }
        let home = Home::open(&self.folder)?;
        let _lock = home.lock()?;
        home.clear()
    }

    /// The stack, if both servers run and answer within five seconds each. Changes nothing.
    ///
    /// # Errors
    /// See [`StackError`].
    pub fn status(&self) -> Result<Option<Stack>, StackError> {
        if !self.folder.exists() {
            return Ok(None);
        }
        Ok(Home::open(&self.folder)?.running().map(Stack::from))
    }

    /// Ends one server in order (Postgres: fast shutdown) and waits until it is gone. Its data and port stay.
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless a stack is up.
    pub fn stop(&self, server: Server) -> Result<(), StackError> {
        let (home, record) = self.started()?;
        home.end_one(server, &record, server.graceful())
    }

    /// Kills one server and waits until it is gone. Its data and port stay.
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless a stack is up.
    pub fn kill(&self, server: Server) -> Result<(), StackError> {
        let (home, record) = self.started()?;
        home.end_one(server, &record, Signal::SIGKILL)
    }

    /// Starts a stopped or killed server on its data and port, and waits until it answers. The clients of the stack see
    /// the same addresses as before.
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless a stack is up.
    pub fn start(&self, server: Server) -> Result<Stack, StackError> {
        let (home, mut record) = self.started()?;
        let _lock = home.lock()?;
        if !home.lives(server, &record) {
            let artifacts = Artifacts::ensure(&home.cache)?;
            match server {
                Server::Postgres => {
                    let port = record.postgres_port;
                    record.postgres_pid = home.postgres.start(&artifacts, port)?;
                }
                Server::Kafka => {
                    let port = record.kafka_port;
                    record.kafka_pid = home.kafka.start(&artifacts, &java::find()?, port)?;
                }
            }
            home.write(&record)?;
        }
        Ok(record.into())
    }

    /// [`StackDir::stop`] and [`StackDir::start`].
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless a stack is up.
    pub fn restart(&self, server: Server) -> Result<Stack, StackError> {
        self.stop(server)?;
        self.start(server)
    }

    /// Freezes a server: its connections stay open and get no answer. Of Postgres only the main process, which accepts
    /// new connections.
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless the server runs.
    pub fn pause(&self, server: Server) -> Result<(), StackError> {
        self.signal(server, Signal::SIGSTOP)
    }

    /// Ends a [`StackDir::pause`].
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless the server runs.
    pub fn resume(&self, server: Server) -> Result<(), StackError> {
        self.signal(server, Signal::SIGCONT)
    }

    fn signal(&self, server: Server, signal: Signal) -> Result<(), StackError> {
        let (home, record) = self.started()?;
        if !home.lives(server, &record) {
            return Err(StackError::NotRunning(home.folder));
        }
        processes::signal(record.pid(server), signal);
        Ok(())
    }

    fn started(&self) -> Result<(Home, Record), StackError> {
        let home = Home::open(&self.folder)?;
        match home.read() {
            Some(record) => Ok((home, record)),
            None => Err(StackError::NotRunning(home.folder)),
        }
    }
}

/// A state folder that exists and is ours.
struct Home {
    folder: PathBuf,
    cache: PathBuf,
    postgres: Postgres,
    kafka: Kafka,
}

impl Home {
    fn open(folder: &Path) -> Result<Self, StackError> {
        let folder = own_folder(folder)?;
        let cache = cache(&own_folder(&default_folder())?);
        Ok(Self {
            postgres: Postgres::new(&folder),
            kafka: Kafka::new(&folder),
            folder,
            cache,
        })
    }

    /// Held by whoever starts or ends servers of this folder; the system releases it with the file, also after a kill.
    fn lock(&self) -> Result<File, StackError> {
        let path = self.folder.join("lock");
        let file = File::create(&path).at("create", &path)?;
        file.lock().at("lock", &path)?;
        Ok(file)
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("stack.json")
    }

    /// `None` also for one that cannot be read: what it would have told is found by the command lines.
    fn read(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path()).ok()?).ok()
    }

    fn write(&self, record: &Record) -> Result<(), StackError> {
        let json =
            serde_json::to_string_pretty(record).expect("numbers under string keys are JSON");
        write_whole(&self.record_path(), &json)
    }

    /// The stack of `stack.json`, if both servers are alive and answer.
    fn running(&self) -> Option<Record> {
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

    fn lives(&self, server: Server, record: &Record) -> bool {
        processes::command_line(record.pid(server)).is_some_and(|line| self.owns(server, &line))
    }

    /// Makes and starts both servers, side by side.
    fn start(&self) -> Result<Record, StackError> {
        let java = java::find()?;
        let artifacts = Artifacts::ensure(&self.cache)?;
        let [postgres_port, kafka_port, controller_port] = ports::free()?;
        let (postgres_pid, kafka_pid) = thread::scope(|scope| {
            let postgres = scope.spawn(|| {
                self.postgres.create(&artifacts)?;
                let pid = self.postgres.start(&artifacts, postgres_port)?;
                Postgres::create_database(postgres_port).map(|()| pid)
            });
            let kafka = self
                .kafka
                .create(&artifacts, &java, kafka_port, controller_port)
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

    /// Ends whatever of this folder runs and removes data and logs.
    fn clear(&self) -> Result<bool, StackError> {
        match fs::remove_file(self.record_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at("remove", &self.record_path());
            }
            _ => {}
        }
        let ran = self.end_all()?;
        remove_folder(self.postgres.folder())?;
        remove_folder(self.kafka.folder())?;
        Ok(ran)
    }

    /// Ends every process of this folder, recorded or not; `false` if there was none.
    fn end_all(&self) -> Result<bool, StackError> {
        let mut asked = Vec::new();
        for server in [Server::Postgres, Server::Kafka] {
            let pids: BTreeSet<u32> = processes::find(|line| self.owns(server, line))?;
            asked.extend(pids.into_iter().map(|pid| (pid, server.graceful())));
        }
        let is_ours = |line: &str| self.postgres.owns(line) || self.kafka.owns(line);
        processes::end(&asked, is_ours, processes::GRACE)?;
        Ok(!asked.is_empty())
    }

    fn end_one(&self, server: Server, record: &Record, signal: Signal) -> Result<(), StackError> {
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

/// Where what is fetched is kept: shared by all stacks of the workspace.
fn cache(default_folder: &Path) -> PathBuf {
    default_folder.join("artifacts")
}

impl Server {
    /// Postgres: end the clients, then shut down. Kafka: shut down.
    fn graceful(self) -> Signal {
        match self {
            Self::Postgres => Signal::SIGINT,
            Self::Kafka => Signal::SIGTERM,
        }
    }
}

impl Record {
    fn pid(&self, server: Server) -> u32 {
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
