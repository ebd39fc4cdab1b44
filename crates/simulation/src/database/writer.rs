//! What a statement sees, and how it locks and changes rows.

use std::any::Any;
use std::collections::BTreeSet;

use super::locks::{Locks, Mode, Target};
use super::table::{RowId, Stamp};
use super::transaction::{Failure, TransactionId};

/// What a statement sees: what was committed before it, and what earlier statements of its own
/// transaction did.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) transaction: TransactionId,
    /// The last commit that it sees.
    pub(super) commit: u64,
    /// The last step of its own transaction that it sees.
    pub(super) step: u64,
}

impl View {
    pub(super) fn sees(self, stamp: Stamp) -> bool {
        match stamp {
            Stamp::Running(transaction, step) => {
                transaction == self.transaction && step <= self.step
            }
            Stamp::Committed(commit) => commit <= self.commit,
        }
    }
}

/// What a statement has done so far. One that waited is run again and must not do it twice, nor see
/// what has become of it since.
#[derive(Debug, Default)]
pub(super) struct Log {
    done: Vec<Box<dyn Any + Send>>,
    next: usize,
}

impl Log {
    /// To be run from the beginning.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }
}

/// How many things an operation does before it pauses.
#[derive(Debug, Default)]
pub(super) struct Pause {
    left: Option<u32>,
}

impl Pause {
    pub(super) fn after(things: u32) -> Self {
        Self { left: Some(things) }
    }

    /// Counts what is done next; whether it is to be left for later.
    pub(super) fn is_due(&mut self) -> bool {
        match self.left {
            None => false,
            Some(0) => true,
            Some(left) => {
                self.left = Some(left - 1);
                false
            }
        }
    }
}

/// What a statement needs to lock and change rows.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    pub(super) locks: &'a mut Locks,
    pub(super) view: View,
    pub(super) log: &'a mut Log,
    pub(super) pause: &'a mut Pause,
    /// Counts locks and changes, so that some can be undone.
    pub(super) step: &'a mut u64,
    /// Counts rows.
    pub(super) last_row: &'a mut RowId,
}

impl Writer<'_> {
    pub(super) fn next_step(&mut self) -> u64 {
        *self.step += 1;
        *self.step
    }

    pub(super) fn next_row(&mut self) -> RowId {
        *self.last_row += 1;
        *self.last_row
    }

    /// Does something, or says what came of it when it was done. Nothing comes of it while it waits.
    pub(super) fn once<T: Clone + Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(done) = self.log.done.get(self.log.next) {
            self.log.next += 1;
            let done: Option<&T> = done.downcast_ref();
            return Ok(done.expect("the same statement does the same").clone());
        }
        if self.pause.is_due() {
            return Err(Failure::Pause);
        }
        let done = act(self)?;
        self.log.next += 1;
        self.log.done.push(Box::new(done.clone()));
        Ok(done)
    }

    /// Takes a lock, or names those to wait for. Only inside [`Writer::once`].
    pub(super) fn acquire(&mut self, target: Target, mode: Mode) -> Result<(), Failure> {
        let step = self.next_step();
        self.locks
            .acquire(target, self.view.transaction, mode, step)
            .map_err(|blockers: BTreeSet<TransactionId>| Failure::Wait(blockers))
    }

    /// Takes an advisory lock.
    pub(super) fn lock(&mut self, number: i64, mode: Mode) -> Result<(), Failure> {
        self.once(|writer| writer.acquire(Target::Advisory(number), mode))
    }

    /// Takes a lock that is free; false of another one. Only inside [`Writer::once`].
    pub(super) fn acquire_free(&mut self, target: Target) -> Result<bool, Failure> {
        let (me, mode) = (self.view.transaction, Mode::Exclusive);
        if !self.locks.is_free(target, me, mode) {
            return Ok(false);
        }
        self.acquire(target, mode)?;
        Ok(true)
    }

    /// Takes an advisory lock that is free; false of another one.
    pub(super) fn try_lock(&mut self, number: i64) -> Result<bool, Failure> {
        self.once(|writer| writer.acquire_free(Target::Advisory(number)))
    }
}
