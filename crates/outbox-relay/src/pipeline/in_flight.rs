//! Which slots are idle and which have events in flight. Pure bookkeeping.

use domain::Slot;

/// Events in flight per slot, whoever owns it by now: a slot is idle only when all that was read of
/// it has been settled or dropped.
#[derive(Debug)]
pub(crate) struct Slots {
    in_flight: Vec<InFlight>,
    /// The number of the slot that was read last: whoever comes after it is first in the next read,
    /// so that none waits for ever where not all find room.
    latest: i16,
}

#[derive(Debug, Clone, Default)]
struct InFlight {
    events: usize,
    /// Of all that were dispatched since the slot was idle.
    bytes: i64,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: Slot::all().map(|_| InFlight::default()).collect(),
            latest: Slot::COUNT - 1,
        }
    }

    /// How many slots come before this one.
    fn turn(&self, slot: Slot) -> i16 {
        (slot.number() - self.latest - 1).rem_euclid(Slot::COUNT)
    }

    pub(crate) fn sort_by_turn(&self, slots: &mut [Slot]) {
        slots.sort_unstable_by_key(|slot| self.turn(*slot));
    }

    /// Of these slots, which were in turn, a read brought something.
    pub(crate) fn read(&mut self, slots: impl Iterator<Item = Slot>) {
        if let Some(latest) = slots.max_by_key(|slot| self.turn(*slot)) {
            self.latest = latest.number();
        }
    }

    pub(crate) fn is_idle(&self, slot: Slot) -> bool {
        self.in_flight[index(slot)].events == 0
    }

    /// One event more.
    pub(crate) fn dispatched(&mut self, slot: Slot, bytes: i32) {
        let in_flight = &mut self.in_flight[index(slot)];
        in_flight.events += 1;
        in_flight.bytes += i64::from(bytes);
    }

    /// # Panics
    /// When more come back than went out: the bookkeeping, and with it the order, would be void.
    pub(crate) fn returned(&mut self, slot: Slot, events: usize) {
        let in_flight = &mut self.in_flight[index(slot)];
        in_flight.events = in_flight
            .events
            .checked_sub(events)
            .expect("only what was dispatched can return");
        if in_flight.events == 0 {
            in_flight.bytes = 0;
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.in_flight.iter().map(|slot| slot.events).sum()
    }

    /// What is in flight takes this much at most.
    pub(crate) fn bytes(&self) -> i64 {
        self.in_flight.iter().map(|slot| slot.bytes).sum()
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
        slots.dispatched(slot, 10);
        slots.dispatched(slot, 20);
        slots.returned(slot, 1);
        assert!(!slots.is_idle(slot));
        assert_eq!((slots.total(), slots.bytes()), (1, 30));
        slots.returned(slot, 1);
        assert!(slots.is_idle(slot));
        assert_eq!((slots.total(), slots.bytes()), (0, 0));
    }

    #[test]
    fn whoever_comes_after_what_was_read_is_first_in_the_next_read() {
        let slot = |number| Slot::try_from(number).unwrap();
        let mut slots = Slots::new();
        let order = |slots: &Slots| {
            let mut some = [3, 30, 7, 0].map(slot);
            slots.sort_by_turn(&mut some);
            some.map(Slot::number)
        };
        assert_eq!(order(&slots), [0, 3, 7, 30]);
        slots.read([3, 0, 3].map(slot).into_iter());
        assert_eq!(order(&slots), [7, 30, 0, 3]);
        slots.read(std::iter::empty());
        assert_eq!(order(&slots), [7, 30, 0, 3]);
        // Further in the order of turns, not of numbers.
        slots.read([30, 0].map(slot).into_iter());
        assert_eq!(order(&slots), [3, 7, 30, 0]);
    }

    #[test]
    #[should_panic(expected = "dispatched")]
    fn more_cannot_return_than_went_out() {
        Slots::new().returned(Slot::try_from(0).unwrap(), 1);
    }
}
