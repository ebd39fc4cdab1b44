//! A writer: a connection of its own, and the loop that commits what waits.
//!
//! Its connection is not asked whether it is alive before each batch: a dead one fails at `begin`,
//! when nothing has been done, and the batch is tried again on a new one.

use std::sync::Arc;
use std::time::Duration;

use service::CancellationToken;
use storage::{Connection, DedicatedConnection, StorageError, orders, with_timeout};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::{BATCH, BATCH_WITHIN, Ticket};
use crate::metrics::Metrics;
use crate::store::StoreError;
use crate::store::diagnosis;
use crate::store::outcome::{Decision, Placed, WorkError};
use crate::store::placing::{self, Placement};
use crate::wake_up::WakeUps;

/// How often the same transaction is begun at most.
const ATTEMPTS: usize = 2;

/// Commits orders from the queue, a batch at a time.
pub struct Writer {
    pub(super) waiting: Arc<Mutex<mpsc::Receiver<Ticket>>>,
    pub(super) connection: DedicatedConnection,
    pub(super) wake_ups: WakeUps,
    pub(super) metrics: Metrics,
    pub(super) key_lifetime: Duration,
}

impl Writer {
    /// Writes until `stop` is cancelled; a batch that has begun is finished.
    pub async fn run(mut self, stop: CancellationToken) {
        // So that the first order does not wait for a connection. Failing is no matter yet.
        let _ = stop.run_until_cancelled(self.connection.connect()).await;
        while let Some(batch) = stop.run_until_cancelled(self.next()).await {
            self.step(batch).await;
        }
    }

    /// What waits, at least one. Cancel safe: nothing is taken before it returns.
    async fn next(&self) -> Vec<Ticket> {
        let mut batch = Vec::new();
        let taken = self.waiting.lock().await.recv_many(&mut batch, BATCH).await;
        self.metrics
            .orders_waiting
            .dec_by(taken.try_into().unwrap_or(i64::MAX));
        batch
    }

    /// Commits a batch, or its orders one by one, and answers each.
    async fn step(&mut self, batch: Vec<Ticket>) {
        let give_up_at = Instant::now() + BATCH_WITHIN;
        let batch: Vec<Ticket> = batch.into_iter().filter(|t| t.turn.begin()).collect();
        if batch.is_empty() {
            return;
        }
        let placements: Vec<&Placement> = batch.iter().map(|t| &t.placement).collect();
        match self.commit(&placements, give_up_at).await {
            Ok(decided) => {
                for (ticket, decision) in batch.into_iter().zip(decided) {
                    ticket.answer(decision);
                }
            }
            Err(CommitFailure::AtFault(_) | CommitFailure::RolledBack(_)) if batch.len() > 1 => {
                for ticket in batch {
                    let outcome = match self.commit(&[&ticket.placement], give_up_at).await {
                        Ok(mut decided) => decided.pop().expect("one decision for one order"),
                        Err(failure) => Err(failure.into_error()),
                    };
                    ticket.answer(outcome);
                }
            }
            Err(failure) => {
                let error = failure.into_error();
                for ticket in batch {
                    ticket.answer(Err(error.clone()));
                }
            }
        }
    }

    async fn commit(
        &mut self,
        placements: &[&Placement],
        give_up_at: Instant,
    ) -> Result<Vec<Decision>, CommitFailure> {
        let mut outcome = self.attempt(placements, give_up_at).await;
        for _ in 1..ATTEMPTS {
            if !matches!(outcome, Err(CommitFailure::RolledBack(_))) {
                break;
            }
            outcome = self.attempt(placements, give_up_at).await;
        }
        match &outcome {
            Ok(decided) => {
                let new = |decision: &&Decision| matches!(decision, Ok(Placed::New));
                let orders = decided.iter().filter(new).count();
                if orders > 0 {
                    self.metrics.committed(orders);
                    self.wake_ups.committed();
                }
            }
            Err(CommitFailure::Everybody(StoreError::OutcomeUnknown { .. })) => {
                self.wake_ups.committed();
            }
            Err(_) => {}
        }
        outcome
    }

    /// One transaction. Keeps the connection only if it can be used again.
    async fn attempt(
        &mut self,
        placements: &[&Placement],
        give_up_at: Instant,
    ) -> Result<Vec<Decision>, CommitFailure> {
        let mut conn = self.connected(give_up_at).await?;
        let limit = left(give_up_at);
        let error = match placing::place(&mut conn, placements, self.key_lifetime, limit).await {
            Ok(decided) => {
                self.connection.keep(conn);
                return Ok(decided);
            }
            Err(WorkError::RolledBack(error)) => error,
            Err(WorkError::Unknown(error, decided)) => {
                drop(conn);
                return self
                    .after_unknown(placements, decided, &error, give_up_at)
                    .await;
            }
        };
        if matches!(error, StorageError::Deadline(_)) {
            return Err(CommitFailure::Everybody(diagnosis::without_asking(
                WorkError::RolledBack(error),
            )));
        }
        Err(
            match diagnosis::ask(&mut conn, WorkError::RolledBack(error)).await {
                away @ StoreError::Unavailable(_) => CommitFailure::RolledBack(away),
                fault @ StoreError::Failed(_) => {
                    self.connection.keep(conn);
                    CommitFailure::AtFault(fault)
                }
                other => CommitFailure::Everybody(other),
            },
        )
    }

    /// Finds out what became of a commit whose answer did not come. One answer is true for the whole
    /// batch, so any order that was written will do.
    async fn after_unknown(
        &mut self,
        placements: &[&Placement],
        decided: Vec<Decision>,
        error: &StorageError,
        give_up_at: Instant,
    ) -> Result<Vec<Decision>, CommitFailure> {
        let unknown =
            |reason: String| CommitFailure::Everybody(StoreError::OutcomeUnknown { reason });
        let Ok(mut conn) = self.connected(give_up_at).await else {
            return Err(unknown(error.to_string()));
        };
        let written = decided.iter().position(|d| matches!(d, Ok(Placed::New)));
        let written = written.expect("nothing is committed when nothing is written");
        let order = &placements[written].order;
        match with_timeout(left(give_up_at), orders::is_committed(&mut conn, order)).await {
            Ok(happened) => {
                self.connection.keep(conn);
                if happened {
                    Ok(decided)
                } else {
                    Err(CommitFailure::RolledBack(StoreError::Unavailable(
                        error.to_string(),
                    )))
                }
            }
            Err(second) => Err(unknown(format!(
                "{error}; the second look failed too: {second}"
            ))),
        }
    }

    async fn connected(&mut self, give_up_at: Instant) -> Result<Connection, CommitFailure> {
        let connected = with_timeout(left(give_up_at), self.connection.take()).await;
        connected
            .map_err(|error| CommitFailure::Everybody(StoreError::Unavailable(error.to_string())))
    }
}

/// Why a transaction did not succeed, and whom that concerns.
enum CommitFailure {
    /// One of its orders is at fault. Nothing was done.
    AtFault(StoreError),
    /// The connection was lost, perhaps by one of its orders. Nothing was done.
    RolledBack(StoreError),
    /// All of them alike: another attempt now would end the same way, or must not be made.
    Everybody(StoreError),
}

impl CommitFailure {
    fn into_error(self) -> StoreError {
        match self {
            Self::AtFault(error) | Self::RolledBack(error) | Self::Everybody(error) => error,
        }
    }
}

impl Ticket {
    fn answer(self, outcome: Result<Placed, StoreError>) {
        // Whoever asked may have gone; what was done stays done.
        let _ = self.answer.send(outcome);
    }
}

fn left(give_up_at: Instant) -> Duration {
    give_up_at.saturating_duration_since(Instant::now())
}
