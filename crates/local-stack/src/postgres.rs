//! One Postgres: its folder, its settings, starting it and asking whether it answers.

use std::error::Error;
use std::fs::{self, File};
use std::future::Future;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use tokio_postgres::{Config, NoTls};

use crate::artifacts::{Artifacts, succeeded};
use crate::error::{IoContext, StackError};
use crate::files::create_traversable;
use crate::readiness;

/// User, password and database.
const NAME: &str = "outbox";

/// What differs from Postgres' defaults. `wal_level` is for logical copies of the outbox,
/// `max_prepared_transactions` for two-phase commits, `track_commit_timestamp` for measuring from
/// commit to commit, `max_connections` for many tests at once.
/// Commits are as durable as in production.
const SETTINGS: [&str; 12] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "max_prepared_transactions=50",
    "wal_level=logical",
    "track_commit_timestamp=on",
    "shared_buffers=256MB",
    "max_wal_size=4GB",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_checkpoints=off",
    "cluster_name=local-stack",
];

/// A Postgres in its folder.
#[derive(Debug)]
pub(crate) struct Postgres {
    folder: PathBuf,
    data: PathBuf,
    password_file: PathBuf,
    log: PathBuf,
    /// Beside [`SETTINGS`], and before them where both name one.
    settings: Vec<String>,
}

impl Postgres {
    pub(crate) fn new(parent: &Path, log: PathBuf) -> Self {
        let folder = parent.join("postgres");
        Self {
            data: folder.join("data"),
            password_file: folder.join("password"),
            folder,
            log,
            settings: Vec::new(),
        }
    }

    pub(crate) fn with_settings(mut self, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter();
        self.settings
            .extend(settings.map(|(name, value)| format!("{name}={value}")));
        self
    }

    /// All that this server keeps.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Whether a command line is this server's, or this server's making.
    pub(crate) fn owns(&self, command_line: &str) -> bool {
        let data = self.data.display();
        [
            format!("/bin/postgres -D {data} "),
            format!("/bin/initdb -D {data} "),
        ]
        .iter()
        .any(|mark| format!("{command_line} ").contains(mark))
    }

    /// Makes an empty cluster and begins a new log file.
    pub(crate) fn create(&self, artifacts: &Artifacts) -> Result<(), StackError> {
        create_traversable(&self.folder)?;
        File::create(&self.log).at("create", &self.log)?;
        fs::create_dir(&self.data).at("create", &self.data)?;
        fs::write(&self.password_file, NAME).at("write", &self.password_file)?;
        let account = account()?;
        if let Some(account) = &account {
            for path in [&self.data, &self.password_file] {
                chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
                    .at("give away", path)?;
            }
        }
        let mut initdb = Command::new(artifacts.postgres_program("initdb"));
        initdb.arg("-D").arg(&self.data);
        initdb
            .args(["--username", NAME, "--auth", "scram-sha-256", "--pwfile"])
            .arg(&self.password_file);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        // The password is no secret: more rounds would only slow down the connections of debug
        // builds.
        initdb.args(["--set", "scram_iterations=1"]);
        let output = as_account(&mut initdb, account.as_ref())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .at("run", &artifacts.postgres_program("initdb"))?;
        succeeded("initdb", &output)
    }

    /// Starts the server on its data and returns once it answers.
    pub(crate) fn start(&self, artifacts: &Artifacts, port: u16) -> Result<u32, StackError> {
        let give_up_at = Instant::now() + Duration::from_secs(10);
        loop {
            let mut child = self.spawn(artifacts, port)?;
            let pid = child.id();
            match readiness::wait("Postgres", &mut child, &self.log, || answers(port)) {
                Ok(()) => {
                    readiness::reap(child);
                    return Ok(pid);
                }
                Err(StackError::NotReady { tail, .. })
                    if predecessor_lingers(&tail) && Instant::now() < give_up_at =>
                {
                    thread::sleep(Duration::from_millis(50));
                }
                Err(error) => {
                    readiness::reap(child);
                    return Err(error);
                }
            }
        }
    }

    fn spawn(&self, artifacts: &Artifacts, port: u16) -> Result<Child, StackError> {
        let program = artifacts.postgres_program("postgres");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .at("open", &self.log)?;
        let also_log = log.try_clone().at("open", &self.log)?;
        let mut postgres = Command::new(&program);
        postgres
            .arg("-D")
            .arg(&self.data)
            .arg("-c")
            .arg(format!("port={port}"));
        for setting in SETTINGS {
            postgres.args(["-c", setting]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        postgres
            .current_dir(&self.data)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also_log);
        // A group of its own: an interrupt at the terminal is not for the server.
        as_account(&mut postgres, account()?.as_ref())
            .process_group(0)
            .spawn()
            .at("run", &program)
    }

    /// Makes the database that the services use.
    pub(crate) fn create_database(port: u16) -> Result<(), StackError> {
        block_on(async || {
            let client = connect(&url_of(port, "postgres")).await?;
            client
                .batch_execute(&format!("create database {NAME}"))
                .await
        })
        .map_err(|error| StackError::Step {
            what: "creating the database",
            status: "Postgres refused".to_owned(),
            output: describe(&error),
        })
    }
}

/// The URL of the database that the services use.
pub(crate) fn url(port: u16) -> String {
    url_of(port, NAME)
}

fn url_of(port: u16, database: &str) -> String {
    format!("postgres://{NAME}:{NAME}@127.0.0.1:{port}/{database}")
}

/// Whether a query is answered, within five seconds.
pub(crate) fn answers(port: u16) -> bool {
    let ask = async || -> Result<(), tokio_postgres::Error> {
        connect(&url_of(port, "postgres"))
            .await?
            .batch_execute("select 1")
            .await
    };
    block_on(async || tokio::time::timeout(Duration::from_secs(5), ask()).await)
        .is_ok_and(|answer| answer.is_ok())
}

/// Connects; the connection is driven by a task of the current runtime and ends with the client.
pub(crate) async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config: Config = url.parse()?;
    let (client, connection) = config
        .connect_timeout(Duration::from_secs(5))
        .connect(NoTls)
        .await?;
    // What ends the connection is told to whoever uses the client next.
    tokio::spawn(connection);
    Ok(client)
}

/// Whether a refusal to start is for what is left of a server that was killed a moment ago: its
/// children notice late, and its own process id stays taken until its parent has taken note.
fn predecessor_lingers(log: &str) -> bool {
    [
        "shared memory block",
        "lock file \"postmaster.pid\" already exists",
    ]
    .iter()
    .any(|refusal| log.contains(refusal))
}

/// What happened in words: of an error of the server the client's own text says no more than that.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Runs asynchronous work from synchronous code, on a thread and a runtime of its own: the caller
/// may itself be part of a runtime of any kind.
pub(crate) fn block_on<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> T {
    let run = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime needs a thread and a poller");
        runtime.block_on(work())
    };
    let result = thread::scope(|scope| scope.spawn(run).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Who Postgres runs as: it refuses to run as root.
pub(crate) fn account() -> Result<Option<User>, StackError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let by_name = |name| User::from_name(name).ok().flatten();
    by_name("postgres")
        .or_else(|| by_name("nobody"))
        .map(Some)
        .ok_or_else(|| {
            StackError::Missing(
                "Postgres does not run as root: create a user `postgres` or `nobody`".to_owned(),
            )
        })
}

fn as_account<'a>(command: &'a mut Command, account: Option<&User>) -> &'a mut Command {
    match account {
        Some(account) => command.uid(account.uid.as_raw()).gid(account.gid.as_raw()),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_killed_server_is_waited_for() {
        assert!(predecessor_lingers(
            "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use"
        ));
        assert!(predecessor_lingers(
            "FATAL:  lock file \"postmaster.pid\" already exists"
        ));
        assert!(!predecessor_lingers(
            "FATAL:  could not create any TCP/IP sockets"
        ));
    }

    #[test]
    fn only_the_server_of_this_folder_is_owned() {
        let postgres = Postgres::new(Path::new("/state/a"), "/log".into());
        assert!(postgres.owns("/x/bin/postgres -D /state/a/postgres/data -c port=1"));
        assert!(postgres.owns("/x/bin/initdb -D /state/a/postgres/data --username outbox"));
        assert!(postgres.owns("/x/bin/postgres -D /state/a/postgres/data"));
        assert!(!postgres.owns("/x/bin/postgres -D /state/b/postgres/data -c port=1"));
        assert!(!postgres.owns("/x/bin/postgres -D /state/a/postgres/data2 -c port=1"));
        assert!(!postgres.owns("tail -f /state/a/postgres/data/x"));
    }
}
