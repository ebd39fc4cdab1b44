//! Which slots are idle and which have events in flight. Pure bookkeeping.

use domain::Slot;

/// Events in flight per slot, whoever owns it by now: a slot is idle only when all that was read of
/// it has been settled or dropped.
#[derive(Debug)]
pub(crate) struct Slots {
    in_flight: Vec<usize>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: Slot::all().map(|_| 0).collect(),
        }
    }

    pub(crate) fn is_idle(&self, slot: Slot) -> bool {
        self.in_flight[index(slot)] == 0
    }

    pub(crate) fn dispatched(&mut self, slot: Slot, events: usize) {
        self.in_flight[index(slot)] += events;
    }

    /// # Panics
    /// When more come back than went out: the bookkeeping, and with it the order, would be void.
    pub(crate) fn returned(&mut self, slot: Slot, events: usize) {
        let in_flight = &mut self.in_flight[index(slot)];
        *in_flight = in_flight
            .checked_sub(events)
            .expect("only what was dispatched can return");
    }

    pub(crate) fn total(&self) -> usize {
        self.in_flight.iter().sum()
    }
}

fn index(slot: Slot) -> usize {
    usize::try_from(slot.number()).expect("slots are numbered from zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_idle_when_all_of_it_returned() {
        let mut slots = Slots::new();
        let slot = Slot::try_from(3).unwrap();
        slots.dispatched(slot, 2);
        slots.returned(slot, 1);
        assert!(!slots.is_idle(slot));
        slots.returned(slot, 1);
        assert!(slots.is_idle(slot));
        assert_eq!(slots.total(), 0);
    }

    #[test]
    #[should_panic(expected = "dispatched")]
    fn more_cannot_return_than_went_out() {
        Slots::new().returned(Slot::try_from(0).unwrap(), 1);
    }
}
