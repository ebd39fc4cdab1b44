//! Placing orders: one transaction. After it, each order is stored together with its event, or none
//! of them is, or the outcome is unknown, which is a result of its own.
//!
//! Three round trips to Postgres, however many orders: `begin`, the two inserts sent together,
//! `commit`; two more when there are idempotency keys, to look at them and to keep the answers.
//! The inserts are not sent before the answer to `begin`, and `commit` not before theirs: a
//! statement whose `begin` was cancelled would commit by itself, an order without its event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel_async::AsyncConnection;
use domain::{NewEvent, Order};
use storage::idempotency::{self, KeptAnswer, KeyState};
use storage::{Connection, StorageError, orders, with_timeout};

use super::StoreError;
use super::outcome::{Decision, Placed, WorkError};

/// An order and the event that announces it.
#[derive(Debug, Clone)]
pub struct Placement {
    pub order: Order,
    pub event: NewEvent,
    /// The answer to keep for requests with the same key; `None` without a key.
    pub answer: Option<KeptAnswer>,
}

impl From<Order> for Placement {
    fn from(order: Order) -> Self {
        let event = order.created_event();
        Self {
            order,
            event,
            answer: None,
        }
    }
}

/// Commits all of `placements` that their keys allow, or none. A key counts for `lifetime`.
///
/// Cancellation: the connection must not be used again.
pub(super) async fn place(
    conn: &mut Connection,
    placements: &[&Placement],
    lifetime: Duration,
    limit: Duration,
) -> Result<Vec<Decision>, WorkError> {
    let mut decided = Vec::new();
    let mut committing = false;
    let transaction = conn.transaction(async |conn| {
        decided = decide(conn, placements, lifetime).await?;
        let new = || {
            let decided = placements.iter().zip(&decided);
            decided.filter_map(|(p, decision)| matches!(decision, Ok(Placed::New)).then_some(*p))
        };
        let orders: Vec<&Order> = new().map(|p| &p.order).collect();
        let events: Vec<&NewEvent> = new().map(|p| &p.event).collect();
        let answers: Vec<&KeptAnswer> = new().filter_map(|p| p.answer.as_ref()).collect();
        if orders.is_empty() {
            return Ok(());
        }
        orders::insert_with_events(conn, &orders, &events).await?;
        if !answers.is_empty() {
            idempotency::keep(conn, &answers, lifetime).await?;
        }
        // From here on a missing answer says nothing about what happened.
        committing = true;
        Ok::<_, StorageError>(())
    });
    match with_timeout(limit, transaction).await {
        Ok(()) => Ok(decided),
        Err(error) if committing && !error.is_refusal() => Err(WorkError::Unknown(error, decided)),
        Err(error) => Err(WorkError::RolledBack(error)),
    }
}

/// Looks at the keys, if there are any. Of several requests with one key the first is the one that
/// runs; the others are told so, as if it ran elsewhere.
async fn decide(
    conn: &mut Connection,
    placements: &[&Placement],
    lifetime: Duration,
) -> Result<Vec<Decision>, StorageError> {
    let answers = || placements.iter().filter_map(|p| p.answer.as_ref());
    let keys: BTreeSet<&str> = answers().map(|answer| &*answer.key).collect();
    if keys.is_empty() {
        return Ok(vec![Ok(Placed::New); placements.len()]);
    }
    let keys = Vec::from_iter(keys);
    let states = idempotency::claim(conn, &keys, lifetime).await?;
    let mut states: BTreeMap<&str, KeyState> = keys.into_iter().zip(states).collect();
    let mut decision = |placement: &&Placement| {
        let Some(answer) = &placement.answer else {
            return Ok(Placed::New);
        };
        match states.get_mut(&*answer.key) {
            Some(state @ KeyState::Free) => {
                *state = KeyState::InFlight;
                Ok(Placed::New)
            }
            Some(KeyState::Kept(kept)) if kept.request_hash == answer.request_hash => {
                Ok(Placed::Replayed(kept.clone()))
            }
            Some(KeyState::Kept(_)) => Err(StoreError::KeyReused),
            Some(KeyState::InFlight) | None => Err(StoreError::KeyInFlight),
        }
    };
    Ok(placements.iter().map(&mut decision).collect())
}
