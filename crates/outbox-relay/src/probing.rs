//! Probes of partitions that were set aside: one request of the first events of one slot, the slots
//! taking turns. What is wrong with one slot's events must not keep the partition from coming back.

use std::collections::{BTreeMap, HashMap};

use domain::{OutboxEvent, Slot};
use messaging::envelope;
use storage::outbox::{Head, ProbeLimits, bury_unavailable, probe_events};
use storage::{Connection, StorageError, within};

use crate::app::LEASE_SCOPE;
use crate::giants::LARGEST_RECORD_BYTES;
use crate::partitions::Partition;
use crate::recovery::{DEADLINE, Probe, Recovery};
use crate::{chunk, giants};

/// Events that a probe is chosen from: the first of its partition and slot.
const PROBED_AT_MOST: usize = 50;
const LIMITS: ProbeLimits = ProbeLimits {
    bytes: 66_000,
    event_bytes: LARGEST_RECORD_BYTES as i64,
};

/// The first events of a slot for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    epoch: i64,
    /// Ascending.
    ids: Vec<i64>,
}

/// Whose events could be the probes of which partitions.
#[derive(Debug, Default)]
pub(crate) struct Candidates(BTreeMap<Partition, BTreeMap<Slot, Candidate>>);

impl Candidates {
    /// Called for a slot's events ascending by id.
    pub(crate) fn add(&mut self, partition: Partition, slot: Slot, epoch: i64, id: i64) {
        let ids = Vec::new();
        let slots = self.0.entry(partition).or_default();
        let first = slots.entry(slot).or_insert(Candidate { epoch, ids });
        if first.ids.len() < PROBED_AT_MOST {
            first.ids.push(id);
        }
    }
}

/// Which slot the latest probe of each partition was of.
#[derive(Debug, Default)]
pub(crate) struct Turns(HashMap<Partition, Slot>);

impl Turns {
    /// The slots in turn: those after the latest one first.
    fn in_turn<T>(
        &self,
        partition: &Partition,
        mut slots: BTreeMap<Slot, T>,
    ) -> impl Iterator<Item = (Slot, T)> + use<T> {
        let later = match self.0.get(partition) {
            Some(latest) => slots
                .extract_if(.., |slot, _| slot > latest)
                .collect::<Vec<_>>(),
            None => Vec::new(),
        };
        later.into_iter().chain(slots)
    }
}

impl Recovery {
    /// Sends one probe of each partition that has none on its way.
    pub(crate) async fn probe(
        &mut self,
        conn: &mut Connection,
        candidates: Candidates,
    ) -> Result<(), StorageError> {
        for (partition, slots) in candidates.0 {
            if !self.partitions.begin_probe(&partition) {
                continue;
            }
            let sent = self.probe_of_one_slot(conn, &partition, slots).await;
            if !matches!(sent, Ok(true)) {
                self.partitions.end_probe(&partition);
            }
            sent?;
        }
        Ok(())
    }

    /// Whether a probe is on its way.
    async fn probe_of_one_slot(
        &mut self,
        conn: &mut Connection,
        partition: &Partition,
        slots: BTreeMap<Slot, Candidate>,
    ) -> Result<bool, StorageError> {
        for (slot, Candidate { epoch, ids }) in self.turns.in_turn(partition, slots) {
            let mut events = self.first_events(conn, (slot, epoch), &ids).await?;
            if events.is_empty() {
                continue;
            }
            let sizes = events
                .iter()
                .map(|(_, event)| envelope::encoded_size(event));
            events.truncate(chunk::take(sizes, chunk::MAX_REQUEST_BYTES));
            let probe = Probe {
                partition: partition.clone(),
                slot,
                epoch,
                events,
            };
            // When the relay has enough of them to do, the next look comes soon.
            let sent = self.probes.try_send(probe).is_ok();
            if sent {
                self.turns.0.insert(partition.clone(), slot);
            }
            return Ok(sent);
        }
        Ok(false)
    }

    /// Those that may be sent, up to the first that no broker would read. Where that is the very
    /// first it is buried.
    async fn first_events(
        &self,
        conn: &mut Connection,
        owned: (Slot, i64),
        ids: &[i64],
    ) -> Result<Vec<(i64, OutboxEvent)>, StorageError> {
        loop {
            let heads = within(DEADLINE, probe_events(conn, owned.0, ids, LIMITS)).await?;
            let mut events = Vec::new();
            let mut giant = None;
            for Head { of, bytes, event } in heads {
                match event {
                    Some(event) if !giants::is_giant(&event) => events.push((of.id, event)),
                    Some(_) | None => {
                        giant = Some((of, bytes));
                        break;
                    }
                }
            }
            let Some((giant, bytes)) = giant.filter(|_| events.is_empty()) else {
                return Ok(events);
            };
            let error = giants::reason(bytes);
            let member = self.leases.member();
            let buried = bury_unavailable(conn, LEASE_SCOPE, member, owned, &giant, &error);
            if !within(DEADLINE, buried).await? {
                return Ok(events);
            }
            giants::tell(&giant.topic, &giant.key, giant.id, &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_take_turns_and_each_begins_with_its_first_events() {
        let slot = |number: i32| Slot::try_from(number).unwrap();
        let partition = ("t".to_owned(), 3);
        let mut candidates = Candidates::default();
        for id in 1..=100 {
            for number in [9, 2, 30] {
                candidates.add(partition.clone(), slot(number), 7, id);
            }
        }
        let slots = candidates.0.remove(&partition).unwrap();
        let first: Vec<i64> = (1..=50).collect();
        assert_eq!(slots[&slot(2)].ids, first);
        let mut turns = Turns::default();
        let order = |turns: &Turns| -> Vec<i16> {
            let slots = turns.in_turn(&partition, slots.clone());
            slots.map(|(slot, _)| slot.number()).collect()
        };
        assert_eq!(order(&turns), [2, 9, 30]);
        for (latest, expected) in [
            (2, [9, 30, 2]),
            (9, [30, 2, 9]),
            (15, [30, 2, 9]),
            (30, [2, 9, 30]),
        ] {
            turns.0.insert(partition.clone(), slot(latest));
            assert_eq!(order(&turns), expected);
        }
    }
}
