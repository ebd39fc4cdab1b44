//! What can go wrong with a stack. Every message stands alone: it names the file to look at or the
//! thing to install.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a stack could not be started, stopped or looked at.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Something this machine lacks; the text says what to install. Docker Compose is the way
    /// around it.
    #[error("{0}, or start Docker and use `docker compose up`")]
    Missing(String),
    /// Postgres is not published for this machine.
    #[error(
        "there is no Postgres to fetch for {os} on {arch}; start Docker and use `docker compose up`"
    )]
    UnsupportedPlatform {
        /// As in `std::env::consts::OS`.
        os: String,
        /// As in `std::env::consts::ARCH`.
        arch: String,
    },
    /// A program that has to succeed first (Maven, tar, initdb, Kafka's format) did not.
    #[error("{what} failed ({status}):\n{output}")]
    Step {
        /// What was to be done.
        what: &'static str,
        /// The exit status in words.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A server was started but ended, or did not answer in time.
    #[error("{server} {why}; the end of {log}:\n{tail}", log = log.display())]
    NotReady {
        /// Which one.
        server: &'static str,
        /// Ended early or never answered.
        why: String,
        /// The server's log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A process outlived SIGKILL.
    #[error("process {pid} did not end within {waited:?}")]
    WillNotEnd {
        /// The process.
        pid: u32,
        /// How long it was given.
        waited: Duration,
    },
    /// A single server was to be started or stopped in a folder where no stack is up.
    #[error("no stack is up in {}", .0.display())]
    NotRunning(PathBuf),
    /// The state folder belongs to somebody else, whose programs must not be run.
    #[error("{} belongs to another user; set LOCAL_STACK_DIR to a folder of your own", .0.display())]
    ForeignFolder(PathBuf),
    /// The file system, or starting a program.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Names the file an I/O error is about.
pub(crate) trait IoContext<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, StackError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, StackError> {
        self.map_err(|source| StackError::Io {
            what,
            path: path.to_owned(),
            source,
        })
    }
}
