//! Locks on rows and on numbers (advisory ones), held until a transaction ends.

use std::collections::{BTreeMap, BTreeSet};

use super::table::RowId;
use super::transaction::TransactionId;

/// How a lock is taken. For rows: `for share`, and `for update` or a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Row(RowId),
    Advisory(i64),
}

#[derive(Debug, Default)]
struct Lock {
    /// Ascending by step; a transaction may hold both modes.
    holders: Vec<(TransactionId, Mode)>,
    /// Those who wait, the first first.
    queue: Vec<(TransactionId, Mode)>,
}

impl Lock {
    fn holds(&self, transaction: TransactionId, mode: Mode) -> bool {
        let holds = |held: &(TransactionId, Mode)| {
            held.0 == transaction && (held.1 == mode || held.1 == Mode::Exclusive)
        };
        self.holders.iter().any(holds)
    }

    /// Whom a transaction would wait for. Who waits for a lock goes before those who come later. One
    /// that shares a row with those who have it does not ask who waits.
    fn blockers(
        &self,
        target: Target,
        transaction: TransactionId,
        mode: Mode,
    ) -> BTreeSet<TransactionId> {
        let conflicting = |(other, held): &(TransactionId, Mode)| {
            (*other != transaction && held.conflicts(mode)).then_some(*other)
        };
        let mut blockers: BTreeSet<_> = self.holders.iter().filter_map(conflicting).collect();
        let barges = match target {
            Target::Row(_) => blockers.is_empty() && mode == Mode::Shared,
            Target::Advisory(_) => false,
        };
        if !barges && !self.holders.iter().any(|(other, _)| *other == transaction) {
            let earlier = self
                .queue
                .iter()
                .take_while(|(other, _)| *other != transaction);
            blockers.extend(earlier.filter_map(conflicting));
        }
        blockers
    }
}

#[derive(Debug)]
struct Held {
    step: u64,
    target: Target,
    mode: Mode,
}

/// All locks, and who waits for whom.
#[derive(Debug, Default)]
pub(super) struct Locks {
    taken: BTreeMap<Target, Lock>,
    held: BTreeMap<TransactionId, Vec<Held>>,
    waits: BTreeMap<TransactionId, BTreeSet<TransactionId>>,
}

impl Locks {
    /// Takes a lock, or queues for it and names those to wait for.
    pub(super) fn acquire(
        &mut self,
        target: Target,
        transaction: TransactionId,
        mode: Mode,
        step: u64,
    ) -> Result<(), BTreeSet<TransactionId>> {
        let lock = self.taken.entry(target).or_default();
        if lock.holds(transaction, mode) {
            return Ok(());
        }
        let blockers = lock.blockers(target, transaction, mode);
        if !blockers.is_empty() {
            if !lock.queue.iter().any(|(waiter, _)| *waiter == transaction) {
                lock.queue.push((transaction, mode));
            }
            return Err(blockers);
        }
        lock.queue.retain(|(waiter, _)| *waiter != transaction);
        lock.holders.push((transaction, mode));
        let held = self.held.entry(transaction).or_default();
        held.push(Held { step, target, mode });
        Ok(())
    }

    /// Whether [`Locks::acquire`] would succeed.
    pub(super) fn is_free(&self, target: Target, transaction: TransactionId, mode: Mode) -> bool {
        self.taken.get(&target).is_none_or(|lock| {
            lock.holds(transaction, mode) || lock.blockers(target, transaction, mode).is_empty()
        })
    }

    /// Notes whom a transaction waits for; true if they wait for it too.
    pub(super) fn wait(
        &mut self,
        transaction: TransactionId,
        blockers: BTreeSet<TransactionId>,
    ) -> bool {
        let mut open: Vec<TransactionId> = blockers.iter().copied().collect();
        self.waits.insert(transaction, blockers);
        let mut seen = BTreeSet::new();
        while let Some(next) = open.pop() {
            if next == transaction {
                return true;
            }
            if seen.insert(next) {
                open.extend(self.waits.get(&next).into_iter().flatten());
            }
        }
        false
    }

    pub(super) fn waits_for(
        &self,
        transaction: TransactionId,
    ) -> impl Iterator<Item = TransactionId> {
        self.waits.get(&transaction).into_iter().flatten().copied()
    }

    /// It no longer waits, whatever comes of it. Its place in queues stays until it has the lock or ends.
    pub(super) fn resume(&mut self, transaction: TransactionId) {
        self.waits.remove(&transaction);
    }

    /// Gives back what a transaction took after `step`, and its place in queues.
    pub(super) fn release(&mut self, transaction: TransactionId, step: u64) {
        self.waits.remove(&transaction);
        if let Some(held) = self.held.get_mut(&transaction) {
            let kept = held.partition_point(|held| held.step <= step);
            for held in held.split_off(kept) {
                if let Some(lock) = self.taken.get_mut(&held.target) {
                    let this = (transaction, held.mode);
                    lock.holders.retain(|holder| *holder != this);
                }
            }
            if held.is_empty() {
                self.held.remove(&transaction);
            }
        }
        self.taken.retain(|_, lock| {
            lock.queue.retain(|(waiter, _)| *waiter != transaction);
            !(lock.holders.is_empty() && lock.queue.is_empty())
        });
    }
}
