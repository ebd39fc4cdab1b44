//! Where unavailable events lie, so that nobody has to search for them. Pure bookkeeping.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::Slot;
use storage::outbox::{Hold, HoldCause};

/// Where the unavailable events of one topic and slot are to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// None of them lies at or before this id.
    pub(crate) front: i64,
    /// The next look begins behind this id.
    pub(crate) next: i64,
}

/// Which topics have unavailable events in which slots. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting(Arc<Mutex<BTreeMap<(Slot, String), Place>>>);

impl Waiting {
    pub(crate) fn places(&self) -> MutexGuard<'_, BTreeMap<(Slot, String), Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These may be held as unavailable from now on.
    pub(crate) fn note(&self, holds: &[Hold]) {
        for hold in holds.iter().filter(|hold| hold.cause != HoldCause::Dead) {
            self.lies(hold.slot, &hold.topic, hold.id);
        }
    }

    pub(crate) fn lies(&self, slot: Slot, topic: &str, id: i64) {
        let before = id - 1;
        let place = Place {
            front: before,
            next: before,
        };
        self.places()
            .entry((slot, topic.to_owned()))
            .and_modify(|known| {
                known.front = known.front.min(before);
                known.next = known.next.min(before);
            })
            .or_insert(place);
    }

    /// A look that began at `place` ended at `end`; the first one that stayed was `first`.
    pub(crate) fn looked(
        &self,
        slot: Slot,
        topic: &str,
        place: Place,
        end: End,
        first: Option<i64>,
    ) {
        let mut places = self.places();
        let name = (slot, topic.to_owned());
        // Changed meanwhile: something was held before where this look began.
        if places.get(&name) != Some(&place) {
            return;
        }
        let from_the_front = place.next == place.front;
        let front = match first {
            Some(first) if from_the_front => first - 1,
            Some(_) | None => place.front,
        };
        match end {
            End::Unfinished(next) => {
                places.insert(name, Place { front, next });
            }
            End::Reached if from_the_front && first.is_none() => {
                places.remove(&name);
            }
            End::Reached => {
                places.insert(name, Place { front, next: front });
            }
        }
    }
}

/// How far a look came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Reached,
    /// It gave up behind this id.
    Unfinished(i64),
}
