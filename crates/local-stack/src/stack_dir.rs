//! Drives the stack of a folder: up, down, status, and single servers for tests of faults.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::error::StackError;
use crate::files::default_folder;
use crate::home::{Home, Record};
use crate::processes;
use crate::stack::{Server, Stack};

/// The state folder of a stack, running or not.
///
/// `StackDir::default()` is the one that everybody in a workspace shares: the folder that the
/// environment variable `LOCAL_STACK_DIR` names, else one under the system's temporary folder.
#[derive(Debug, Clone)]
pub struct StackDir {
    folder: PathBuf,
    kafka_settings: Vec<(String, String)>,
}

impl Default for StackDir {
    fn default() -> Self {
        Self::new(default_folder())
    }
}

impl StackDir {
    /// A stack of one's own in this folder, which need not exist yet. What is fetched is shared
    /// with the default stack.
    ///
    /// Ending it is up to the caller, see [`StackDir::down`].
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            kafka_settings: Vec::new(),
        }
    }

    /// The same, with settings of Kafka's `server.properties` beside the usual ones. They count for
    /// the [`StackDir::up`] that starts the stack, and from then on.
    #[must_use]
    pub fn with_kafka_settings(mut self, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter();
        self.kafka_settings
            .extend(settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// Starts the stack, or finds it running; returns when both servers answer. Any number of
    /// processes and threads may call it at once: one starts the stack, all get the same. A stack
    /// of which a server is gone is started afresh, without its data.
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
        // Somebody else may have started it in the meantime. A busy machine may answer late: ending
        // a stack that others use is worse than to wait.
        if let Some(running) = (0..6).find_map(|_| home.running()) {
            return Ok(running.into());
        }
        home.clear()?;
        match home.start(&self.kafka_settings) {
            Ok(record) => Ok(record.into()),
            Err(error) => {
                // The first failure is the one to tell; the next `up` or `down` ends what this
                // leaves.
                let _ = home.end_all();
                Err(error)
            }
        }
    }

    /// Ends the stack and removes its data, but neither the logs nor what was fetched; `false` if
    /// nothing ran.
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

    /// Ends one server in order (Postgres: fast shutdown) and waits until it is gone. Its data and
    /// port stay.
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

    /// Starts a stopped or killed server on its data and port, and waits until it answers. The
    /// clients of the stack see the same addresses as before.
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless a stack is up.
    pub fn start(&self, server: Server) -> Result<Stack, StackError> {
        let (home, record) = self.started()?;
        home.start_one(server, record).map(Stack::from)
    }

    /// [`StackDir::stop`] and [`StackDir::start`].
    ///
    /// # Errors
    /// [`StackError::NotRunning`] unless a stack is up.
    pub fn restart(&self, server: Server) -> Result<Stack, StackError> {
        self.stop(server)?;
        self.start(server)
    }

    /// Freezes a server: its connections stay open and get no answer. Of Postgres only the main
    /// process, which accepts new connections.
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
