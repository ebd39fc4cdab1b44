//! A Postgres of a test's own, without a Kafka, and standbys that follow it.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tokio_postgres::Client;
use uuid::Uuid;

use super::run;
use crate::artifacts::{Artifacts, succeeded};
use crate::error::{IoContext, StackError};
use crate::files::{create_traversable, default_folder, own_folder, remove_folder};
use crate::postgres::{self, Postgres, block_on, connect, describe};
use crate::{ports, processes};

const LOG: &str = "postgres.log";

/// A running server with a database, migrated unless it was started empty. It ends with this value, and its data with it.
///
/// Its methods block the thread that calls them: a test whose proxies must go on meanwhile needs a
/// runtime of several threads.
#[derive(Debug)]
pub struct PostgresServer {
    postgres: Postgres,
    folder: PathBuf,
    port: u16,
}

impl PostgresServer {
    /// With these settings beside the usual ones.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let server = Self::start_empty(settings);
        let database: storage::Database = server.url().parse().expect("its own URL is one");
        let migrated = block_on(async || storage::migrations::migrate(&database).await);
        migrated.unwrap_or_else(|error| panic!("migrating: {error}"));
        server
    }

    /// The same with nothing in its database, for [`TestDatabase::create_on`].
    ///
    /// # Panics
    /// When it cannot be started.
    ///
    /// [`TestDatabase::create_on`]: super::TestDatabase::create_on
    pub fn start_empty(settings: &[(&str, &str)]) -> Self {
        let started = Self::try_start(settings);
        started.unwrap_or_else(|error| panic!("Postgres cannot be started: {error}"))
    }

    fn try_start(settings: &[(&str, &str)]) -> Result<Self, StackError> {
        let server = Self::prepare(settings)?;
        let artifacts = artifacts()?;
        server.postgres.create(&artifacts)?;
        server.postgres.start(&artifacts, server.port)?;
        Postgres::create_database(server.port)?;
        Ok(server)
    }

    fn prepare(settings: &[(&str, &str)]) -> Result<Self, StackError> {
        let folder = std::env::temp_dir().join(format!("postgres-server-{}", Uuid::now_v7()));
        let folder = own_folder(&folder)?;
        create_traversable(&folder)?;
        let [port] = ports::free()?;
        Ok(Self {
            postgres: Postgres::new(&folder, folder.join(LOG)).with_settings(settings),
            folder,
            port,
        })
    }

    /// A copy that follows this server, and answers queries. This server is restarted for it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn standby(&self, settings: &[(&str, &str)]) -> Self {
        let made = self.try_standby(settings);
        made.unwrap_or_else(|error| panic!("the standby cannot be made: {error}"))
    }

    fn try_standby(&self, settings: &[(&str, &str)]) -> Result<Self, StackError> {
        let primary = format!(
            "host=127.0.0.1 port={} user=outbox password=outbox application_name=standby",
            self.port
        );
        let mut all = vec![("primary_conninfo", primary.as_str())];
        all.extend(settings);
        let standby = Self::prepare(&all)?;
        let artifacts = artifacts()?;
        self.end(Signal::SIGINT)?;
        copy(self.postgres.folder(), standby.postgres.folder())?;
        let signal = standby.postgres.data().join("standby.signal");
        File::create(&signal).at("create", &signal)?;
        if let Some(account) = postgres::account()? {
            let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
            chown(&signal, Some(uid), Some(gid)).at("give away", &signal)?;
        }
        self.postgres.start(&artifacts, self.port)?;
        standby.postgres.start(&artifacts, standby.port)?;
        Ok(standby)
    }

    /// As in `DATABASE_URL`.
    pub fn url(&self) -> String {
        postgres::url(self.port)
    }

    /// On `127.0.0.1`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its log file, which goes with this value.
    pub fn log(&self) -> PathBuf {
        self.folder.join(LOG)
    }

    /// A connection for SQL of the test's own. It is driven by a task of the current runtime.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn connect(&self) -> Client {
        let connected = connect(&self.url()).await;
        connected.unwrap_or_else(|error| panic!("connecting: {}", describe(&error)))
    }

    /// Makes a standby a primary; returns once it can be written.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn promote(&self) {
        run(&self.connect().await, "select pg_promote(true, 30)").await;
    }

    /// Ends it without warning. Its data and port stay.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&self) {
        let ended = self.end(Signal::SIGKILL);
        ended.unwrap_or_else(|error| panic!("killing Postgres: {error}"));
    }

    /// Ends it in order: its clients are cut off. Its data and port stay.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&self) {
        let ended = self.end(Signal::SIGINT);
        ended.unwrap_or_else(|error| panic!("stopping Postgres: {error}"));
    }

    /// Starts it again after [`PostgresServer::kill`] or [`PostgresServer::stop`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&self) {
        let started = artifacts().and_then(|all| self.postgres.start(&all, self.port));
        started.unwrap_or_else(|error| panic!("starting Postgres: {error}"));
    }

    fn end(&self, signal: Signal) -> Result<(), StackError> {
        let is_ours = |line: &str| self.postgres.owns(line);
        let asked: Vec<_> = processes::find(is_ours)?
            .into_iter()
            .map(|pid| (pid, signal))
            .collect();
        processes::end(&asked, is_ours, processes::GRACE)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let ended = self.end(Signal::SIGKILL);
        if let Err(error) = ended.and_then(|()| remove_folder(&self.folder)) {
            eprintln!("a Postgres stays: {error}");
        }
    }
}

/// What the default stack runs.
pub(super) fn artifacts() -> Result<Artifacts, StackError> {
    Artifacts::ensure(&own_folder(&default_folder())?.join("artifacts"))
}

/// The folder with all that is in it, its owners included.
fn copy(from: &Path, to: &Path) -> Result<(), StackError> {
    let mut program = Command::new("cp");
    program.arg("-a").arg(from).arg(to);
    let output = program.output().at("copy", from)?;
    succeeded("copying the primary", &output)?;
    // What the copy must not have of the original's.
    let pid = to.join("data/postmaster.pid");
    if pid.exists() {
        fs::remove_file(&pid).at("remove", &pid)?;
    }
    Ok(())
}
