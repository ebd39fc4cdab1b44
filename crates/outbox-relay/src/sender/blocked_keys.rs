//! Keys whose event turned out to be dead in the middle of a batch. Pure bookkeeping.

use std::collections::{HashMap, HashSet};

use domain::Slot;

use crate::event::Dispatched;

/// Per slot: the batch it happened in, and the keys. A later batch of the slot was read knowing of
/// it, so only the newest batch is kept, and the size of a batch bounds what is kept.
#[derive(Debug, Default)]
pub(crate) struct BlockedKeys(HashMap<Slot, (u64, HashSet<String>)>);

impl BlockedKeys {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `dead` can never be produced.
    pub(crate) fn add(&mut self, dead: &Dispatched) {
        let (batch, keys) = self.0.entry(dead.slot).or_default();
        if *batch != dead.batch {
            *batch = dead.batch;
            keys.clear();
        }
        keys.insert(dead.event.key.clone());
    }

    /// Whether `event` comes after a dead one of its key and batch. Forgets older batches of its
    /// slot.
    pub(crate) fn is_followed_by(&mut self, event: &Dispatched) -> bool {
        match self.0.get(&event.slot) {
            None => false,
            Some((batch, keys)) if *batch == event.batch => keys.contains(&event.event.key),
            Some(_) => {
                self.0.remove(&event.slot);
                false
            }
        }
    }
}
