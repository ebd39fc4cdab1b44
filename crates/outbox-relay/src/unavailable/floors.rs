//! Which events must wait because unavailable ones of their partition are held: a pure function of
//! what one read found.

use std::collections::HashMap;

use domain::Slot;
use storage::outbox::{Destination, UnavailableGroup};

/// The groups of unavailable events that one read found, by slot and topic.
#[derive(Debug, Default)]
pub(crate) struct Floors(HashMap<(Slot, String), Vec<(Destination, i64)>>);

impl Floors {
    pub(crate) fn new(groups: Vec<UnavailableGroup>) -> Self {
        let mut floors: HashMap<_, Vec<_>> = HashMap::new();
        for group in groups {
            floors
                .entry((group.slot, group.topic))
                .or_default()
                .push((group.destination, group.lowest));
        }
        Self(floors)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an event of this id must be held, too: it is above the lowest of its group. Where any
    /// group of the slot and topic was routed under another number of partitions, keys may have moved,
    /// and the lowest of all groups counts.
    pub(crate) fn hold_back(
        &self,
        slot: Slot,
        topic: &str,
        destination: Destination,
        id: i64,
    ) -> bool {
        let Some(groups) = self.0.get(&(slot, topic.to_owned())) else {
            return false;
        };
        let recounted = groups
            .iter()
            .any(|(other, _)| other.partition_count != destination.partition_count);
        groups
            .iter()
            .filter(|(other, _)| recounted || *other == destination)
            .any(|(_, lowest)| id > *lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "t";

    fn slot(number: i32) -> Slot {
        Slot::try_from(number).unwrap()
    }

    fn to(partition_count: i32, partition: i32) -> Destination {
        Destination {
            partition_count,
            partition,
        }
    }

    fn floors(groups: &[(Destination, i64)]) -> Floors {
        let group = |(destination, lowest): &(Destination, i64)| UnavailableGroup {
            slot: slot(3),
            topic: TOPIC.to_owned(),
            destination: *destination,
            lowest: *lowest,
        };
        Floors::new(groups.iter().map(group).collect())
    }

    #[test]
    fn an_event_waits_for_lower_ones_of_its_own_group_only() {
        let floors = floors(&[(to(6, 1), 10), (to(6, 2), 20)]);
        let waits = |partition, id| floors.hold_back(slot(3), TOPIC, to(6, partition), id);
        assert!(!waits(1, 9));
        assert!(!waits(1, 10), "it is the lowest itself");
        assert!(waits(1, 11));
        assert!(!waits(2, 11));
        assert!(waits(2, 21));
        assert!(!waits(3, 21));
        assert!(!floors.hold_back(slot(4), TOPIC, to(6, 1), 11));
        assert!(!floors.hold_back(slot(3), "other", to(6, 1), 11));
    }

    #[test]
    fn once_the_number_of_partitions_changed_the_lowest_of_all_groups_counts() {
        let floors = floors(&[(to(4, 1), 10), (to(6, 2), 5)]);
        for partition in 0..6 {
            assert!(floors.hold_back(slot(3), TOPIC, to(6, partition), 6));
            assert!(!floors.hold_back(slot(3), TOPIC, to(6, partition), 4));
        }
        // The topic is missing now.
        assert!(floors.hold_back(slot(3), TOPIC, Destination::NOWHERE, 6));
    }
}
