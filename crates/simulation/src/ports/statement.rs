//! Statements: what Postgres does with one, how it waits for locks, and how calls end.

use std::time::Duration;

use rand::RngExt;
use storage::StorageError;
use tokio::time::timeout;

use crate::database::{Connection, DatabaseError, SessionId};
use crate::world::{Broken, Host, Server, Sim, World};

/// One statement of so many pauses.
const PAUSED: u32 = 12;

/// One call on a connection of its own; `None` of the model's errors reaches the caller but as that the
/// call failed. `timeout` is that of the statement, on the server's side; `deadline` the caller's.
///
/// # Errors
/// When the server does not answer in time, the connection breaks, or the statement fails.
pub async fn statement<T: Send + 'static>(
    host: &Host,
    (deadline, statement_timeout): (Duration, Duration),
    operation: impl FnMut(&mut Connection<'_>) -> Result<T, DatabaseError> + Send + 'static,
) -> Result<T, StorageError> {
    let sim = host.sim.clone();
    let serve = async move {
        let session = Session::open(&sim);
        session.run(statement_timeout, operation).await
    };
    answered(deadline, host.request(Server::Postgres, serve)).await
}

/// How a caller sees the end of a call.
pub(super) async fn answered<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Result<T, DatabaseError>, Broken>>,
) -> Result<T, StorageError> {
    match timeout(deadline, call).await {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(_)) | Err(Broken)) => Err(StorageError::closed()),
        Err(_) => Err(StorageError::Deadline(deadline)),
    }
}

/// A session on the server. Dropped, it ends there, and what it had begun is rolled back.
pub struct Session {
    id: SessionId,
    sim: Sim,
}

impl Session {
    /// Opens one.
    pub fn open(sim: &Sim) -> Self {
        Self {
            id: sim.world().database.connect(),
            sim: sim.clone(),
        }
    }

    /// Runs one operation, and waits while others have what it needs. `None` when the server has ended
    /// the session.
    pub async fn run<T>(
        &self,
        statement_timeout: Duration,
        mut operation: impl FnMut(&mut Connection<'_>) -> Result<T, DatabaseError>,
    ) -> Option<Result<T, DatabaseError>> {
        let ends = self.sim.now() + statement_timeout;
        loop {
            let ended = self.sim.transaction_ended().notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            let now = self.sim.now();
            let outcome = {
                let World {
                    database, random, ..
                } = &mut *self.sim.world();
                if !database.is_open(self.id) {
                    return None;
                }
                let before = database.ended();
                let mut connection = database.on(self.id, now);
                // Others come between any two things that a statement does.
                if random.random_range(0..PAUSED) == 0 {
                    connection = connection.pausing_after(random.random_range(1..12));
                }
                let outcome = operation(&mut connection);
                if database.ended() != before {
                    self.sim.transaction_ended().notify_waiters();
                }
                outcome
            };
            match outcome {
                Err(DatabaseError::Blocked(_)) => {}
                Err(DatabaseError::Paused) => {
                    let pause = self.sim.world().random.random_range(10..3_000);
                    tokio::time::sleep(Duration::from_micros(pause)).await;
                    continue;
                }
                _ => return Some(outcome),
            }
            let left = ends.saturating_sub(now);
            if left.is_zero() || timeout(left, ended).await.is_err() {
                let database = &mut self.sim.world().database;
                if database.is_open(self.id) {
                    database.on(self.id, self.sim.now()).cancel();
                    self.sim.transaction_ended().notify_waiters();
                }
                return Some(outcome);
            }
        }
    }

    /// Ends it on the server.
    pub fn end(&self) {
        let database = &mut self.sim.world().database;
        if database.is_open(self.id) {
            database.disconnect(self.id);
        }
        self.sim.transaction_ended().notify_waiters();
    }

    /// Runs something that never waits.
    pub fn now<T>(&self, operation: impl FnOnce(&mut Connection<'_>) -> T) -> Option<T> {
        let now = self.sim.now();
        let database = &mut self.sim.world().database;
        if !database.is_open(self.id) {
            return None;
        }
        let value = operation(&mut database.on(self.id, now));
        self.sim.transaction_ended().notify_waiters();
        Some(value)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}
