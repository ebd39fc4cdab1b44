//! Commits shared under load: orders wait in one bounded queue, and a few writers take what waits,
//! up to [`BATCH`], into one transaction each. There is no timer: a lone order goes at once, and
//! batches form because commits take time.
//!
//! What is promised to each order, whatever its neighbours do: it is answered after its own commit;
//! it is placed or not whether or not a neighbour's client hangs up; and when a batch fails, it is
//! tried again alone. An order whose client has gone, or has waited too long, before a writer took
//! it is not placed.

mod turn;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use storage::{Database, DedicatedConnection, Session};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{Placed, Placement, StoreError};
use crate::metrics::Metrics;
use crate::wake_up::WakeUps;
use turn::Turn;
pub use writer::Writer;

/// Orders in one transaction at most: what one commit shares is the wait for the disk, and beyond
/// this it is small against the work itself.
const BATCH: usize = 128;
/// While one batch waits for the disk the next is written; more writers make smaller batches.
const WRITERS: usize = 2;
/// Orders that wait at most; the next is refused at once.
const QUEUE: usize = 1_024;

/// How long an order waits for a writer.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
/// How long a batch may take, with every retry. Below Postgres' own limit on a statement.
const BATCH_WITHIN: Duration = Duration::from_secs(2);
/// How long an order that was taken is waited for: the batch, and a look at why it failed.
const ANSWERED_WITHIN: Duration = Duration::from_millis(2_450);

/// Where orders are handed in. Clones hand in to the same queue.
#[derive(Clone)]
pub struct Queue {
    orders: mpsc::Sender<Ticket>,
    metrics: Metrics,
}

/// An order in the queue.
struct Ticket {
    placement: Placement,
    turn: Arc<Turn>,
    answer: oneshot::Sender<Result<Placed, StoreError>>,
}

/// A queue and the writers that empty it, each to be run by a task on the main runtime. Keys count
/// for `key_lifetime`.
pub fn group_commit(
    database: &Database,
    wake_ups: &WakeUps,
    metrics: &Metrics,
    key_lifetime: Duration,
) -> (Queue, Vec<Writer>) {
    let (orders, waiting) = mpsc::channel(QUEUE);
    let waiting = Arc::new(Mutex::new(waiting));
    let writers = (0..WRITERS).map(|_| Writer {
        waiting: Arc::clone(&waiting),
        connection: DedicatedConnection::new(database.clone(), Session::request("order-api")),
        wake_ups: wake_ups.clone(),
        metrics: metrics.clone(),
        key_lifetime,
    });
    let queue = Queue {
        orders,
        metrics: metrics.clone(),
    };
    (queue, writers.collect())
}

impl Queue {
    /// Commits an order together with its event.
    ///
    /// Cancellation: an order that no writer has taken yet is not placed; later, it is placed all
    /// the same.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when the order may have been stored; after any other error it
    /// has not been.
    pub(super) async fn place(&self, placement: Placement) -> Result<Placed, StoreError> {
        let turn = Arc::new(Turn::default());
        let (answer, mut answered) = oneshot::channel();
        let ticket = Ticket {
            placement,
            turn: Arc::clone(&turn),
            answer,
        };
        self.orders
            .try_send(ticket)
            .map_err(|_| StoreError::Busy(TAKEN_WITHIN))?;
        self.metrics.orders_waiting.inc();
        let waiter = turn.waiter();
        let outcome = match tokio::time::timeout(TAKEN_WITHIN, &mut answered).await {
            Ok(outcome) => Some(outcome),
            Err(_) if waiter.give_up() => return Err(StoreError::Busy(TAKEN_WITHIN)),
            Err(_) => tokio::time::timeout(ANSWERED_WITHIN, answered).await.ok(),
        };
        match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) if waiter.give_up() => {
                Err(StoreError::Unavailable("no writer is left".to_owned()))
            }
            // The writer died with it, or is stuck.
            Some(Err(_)) | None => Err(StoreError::OutcomeUnknown {
                reason: StoreError::NoAnswer.to_string(),
            }),
        }
    }
}
