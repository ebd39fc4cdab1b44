//! Who decides about a waiting order: the writer that begins it, or the request that gives it up.
//! The first one does; the other learns that it is too late.

use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Shared by a request and the writers.
#[derive(Debug, Default)]
pub(super) struct Turn(AtomicU8);

/// The request's side; gives up when it is dropped.
pub(super) struct Waiter<'t>(&'t Turn);

impl Turn {
    /// For a writer: whether the order is to be placed. From then on it cannot be given up.
    pub(super) fn begin(&self) -> bool {
        self.decide(BEGUN)
    }

    pub(super) fn waiter(&self) -> Waiter<'_> {
        Waiter(self)
    }

    fn decide(&self, decision: u8) -> bool {
        // Nothing else is published through it: the order itself went through the queue.
        self.0
            .compare_exchange(WAITING, decision, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

impl Waiter<'_> {
    /// Whether it was not too late: the order is not placed, for certain.
    pub(super) fn give_up(&self) -> bool {
        self.0.decide(GIVEN_UP)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides() {
        let turn = Turn::default();
        assert!(turn.begin());
        assert!(!turn.waiter().give_up());
        let turn = Turn::default();
        drop(turn.waiter());
        assert!(!turn.begin());
    }
}
