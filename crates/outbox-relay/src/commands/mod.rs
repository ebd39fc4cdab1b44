//! The commands for an operator: `status`, `dead-letters`, `replay`.
//!
//! A command needs Postgres and nothing else, takes no lease, and waits for nothing: it works beside
//! any number of relays, or none. It prints its answer on standard output, as a table or as JSON,
//! and an error as one line on standard error.

mod dead_letters;
mod replay;
mod status;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use domain::{EventId, EventState};
use service::{SettingsError, Source, exit_code_for_settings};
use storage::migrations::{NotReady, connect_when_ready};
use storage::notify::{Channel, notify};
use storage::{Connection, Database, Session, StorageError, with_timeout};
use uuid::Uuid;

use crate::lease::NAME;

/// The longest a statement may take; a dead letter may block a million events.
const DEADLINE: Duration = Duration::from_mins(10);
/// How often a lock that a relay holds for a moment is tried again.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// The commands beside `run`.
#[derive(Debug, Subcommand)]
pub(crate) enum Operation {
    /// Show slot owners, pending and held events, and how long they have waited
    Status(status::StatusArgs),
    /// List, redrive or discard events that cannot be published
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Publish events again. Give at least one bound; all given bounds must hold
    Replay(replay::ReplayArgs),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Some of the work is done, and stays done.
    #[error("{cause}; before that: {done}")]
    Interrupted { cause: StorageError, done: String },
    #[error("no held event has the id {0}")]
    NotHeld(EventId),
    #[error("event {event} is not dead but {}{explanation}", .state.as_str())]
    NotDead {
        event: Uuid,
        state: EventState,
        explanation: &'static str,
    },
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl Operation {
    /// Checks the arguments taken together.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Status(_) | Self::DeadLetters(_) => Ok(()),
            Self::Replay(args) => args.check(),
        }
    }

    /// Does it and returns the exit status: 0, 1 when it failed or a verification found something,
    /// 78 when `DATABASE_URL` cannot be used.
    pub(crate) fn run(self, source: &Source) -> ExitCode {
        let database = match database(source) {
            Ok(database) => database,
            Err(error) => return exit_code_for_settings(&error),
        };
        service::block_on(async move {
            let outcome = match self {
                Self::Status(args) => status::run(&database, args).await,
                Self::DeadLetters(command) => dead_letters::run(&database, command).await,
                Self::Replay(args) => replay::run(&database, args).await,
            };
            outcome.unwrap_or_else(|error| {
                eprintln!("{NAME}: {error}");
                ExitCode::FAILURE
            })
        })
    }
}

/// The one setting a command reads.
fn database(source: &Source) -> Result<Database, SettingsError> {
    let mut reader = source.reader();
    let database = reader.required("DATABASE_URL");
    reader.finish_with(database)
}

async fn connect(database: &Database, session: Session) -> Result<Connection, CommandError> {
    Ok(connect_when_ready(database, &session).await?)
}

/// For statements that walk indexes, as the relay's do.
fn working() -> Session {
    Session::long_running(NAME).with_index_plans()
}

/// Calls until it succeeds, some seconds at most: a relay may hold the lock of a key for a moment.
/// `call` must be safe to repeat.
async fn retry_on_lock<T>(
    conn: &mut Connection,
    mut call: impl AsyncFnMut(&mut Connection) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let mut attempts_left = ATTEMPTS;
    loop {
        match with_timeout(DEADLINE, call(conn)).await {
            Err(error @ StorageError::Query(_)) if !error.is_permanent() && attempts_left > 0 => {
                attempts_left -= 1;
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Notifies the relays that events are pending, so that they do not wait for their next poll.
async fn wake_relays(conn: &mut Connection) {
    // They poll anyway, within a second or two.
    let _ = with_timeout(Duration::from_secs(1), notify(conn, Channel::Outbox)).await;
}

/// `1 event`, `2 events`.
fn events(count: i64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}
