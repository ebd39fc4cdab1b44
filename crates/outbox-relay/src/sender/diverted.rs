//! Events that were moved to held in the middle of a read. Pure bookkeeping.

use std::collections::HashMap;

use domain::Slot;

use crate::event::Dispatched;

/// Per slot: the newest read of which an event was moved, and the lowest id that was. Later events of
/// that read must follow it, whatever becomes of the partition meanwhile; later reads learn of it from
/// the table.
#[derive(Debug, Default)]
pub(crate) struct Diverted(HashMap<Slot, (u64, i64)>);

impl Diverted {
    /// `event` is moved to held.
    pub(crate) fn add(&mut self, event: &Dispatched) {
        let (batch, lowest) = self.0.entry(event.slot).or_insert((event.batch, event.id));
        if *batch != event.batch {
            (*batch, *lowest) = (event.batch, event.id);
        }
        *lowest = event.id.min(*lowest);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `event` comes after a moved one of its slot and read. Forgets older reads of its slot.
    pub(crate) fn is_followed_by(&mut self, event: &Dispatched) -> bool {
        match self.0.get(&event.slot) {
            None => false,
            Some((batch, lowest)) if *batch == event.batch => event.id > *lowest,
            Some(_) => {
                self.0.remove(&event.slot);
                false
            }
        }
    }
}
