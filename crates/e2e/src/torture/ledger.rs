//! What clients and writers asked for, and what they were told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use domain::OrderId;

/// What a client knows of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was told that it is done.
    Done,
    /// It was told that it is not done, or took it back itself.
    NotDone,
    Unknown,
}

/// An order that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    /// The `Idempotency-Key`.
    pub(crate) key: Option<String>,
    pub(crate) product: String,
    pub(crate) quantity: i32,
    pub(crate) outcome: Outcome,
    /// From the answer.
    pub(crate) id: Option<OrderId>,
}

/// A cancellation that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Cancelled {
    pub(crate) id: OrderId,
    pub(crate) outcome: Outcome,
}

/// A transaction of events, or a part of one that was taken back.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) events: Vec<String>,
    pub(crate) outcome: Outcome,
}

/// What one client or writer remembers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) orders: Vec<Placed>,
    pub(crate) cancellations: Vec<Cancelled>,
    pub(crate) transactions: Vec<Written>,
    /// Answers that no client should get.
    pub(crate) wrong: Vec<String>,
}

impl Ledger {
    /// Adds another one's.
    pub(crate) fn add(&mut self, other: Self) {
        self.orders.extend(other.orders);
        self.cancellations.extend(other.cancellations);
        self.transactions.extend(other.transactions);
        self.wrong.extend(other.wrong);
    }
}

/// What all clients and writers share.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    orders: AtomicU64,
    events: AtomicU64,
}

impl Progress {
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn order(&self) {
        self.orders.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn events(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or_default();
        self.events.fetch_add(count, Ordering::Relaxed);
    }

    /// Orders accepted and events committed so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.orders), read(&self.events))
    }
}
