//! How each partition fares, and when one is to be set aside.
//!
//! Shared by the senders, who report, and by whoever returns what was set aside.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A partition that fails for this long while others work is set aside.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A topic and one of its partitions.
pub(crate) type Partition = (String, i32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It accepted its latest request.
    Accepting,
    /// Events wait for it and none was tried yet.
    Untried,
    /// Its requests fail.
    Failing { since: Instant },
    /// Its events are held as unavailable.
    SetAside,
}

/// Whether a partition that is in `state` at `now` is to be set aside, given what the others do.
/// While nothing can be written nothing is: to move events about would help nobody then.
fn is_due(state: State, others: impl IntoIterator<Item = State>, now: Instant) -> bool {
    match state {
        State::SetAside => true,
        State::Accepting | State::Untried => false,
        State::Failing { since } => {
            now.duration_since(since) >= PATIENCE
                && others
                    .into_iter()
                    .any(|other| matches!(other, State::Accepting | State::Untried))
        }
    }
}

/// The state of every partition that was met. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partitions {
    states: Arc<Mutex<HashMap<Partition, State>>>,
    /// Partitions with a probe on its way.
    probed: Arc<Mutex<HashSet<Partition>>>,
}

impl Partitions {
    fn states(&self) -> MutexGuard<'_, HashMap<Partition, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn probed(&self) -> MutexGuard<'_, HashSet<Partition>> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when no probe of the partition is on its way; one is, from now on.
    pub(crate) fn begin_probe(&self, partition: &Partition) -> bool {
        self.probed().insert(partition.clone())
    }

    pub(crate) fn end_probe(&self, partition: &Partition) {
        self.probed().remove(partition);
    }

    /// `None` when nothing was ever sent there.
    pub(crate) fn state(&self, partition: &Partition) -> Option<State> {
        self.states().get(partition).copied()
    }

    pub(crate) fn set_aside(&self) -> Vec<Partition> {
        let states = self.states();
        let set_aside = states.iter().filter(|(_, s)| **s == State::SetAside);
        set_aside.map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether Kafka takes anything at all, as far as is known.
    pub(crate) fn any_writable(&self) -> bool {
        self.states()
            .values()
            .any(|state| matches!(state, State::Accepting | State::Untried))
    }

    /// Whether some partition has failed for long and nothing is known of any other: then it matters
    /// who else waits.
    pub(crate) fn is_stuck(&self) -> bool {
        let now = Instant::now();
        !self.any_writable()
            && self.states().values().any(|state| {
                matches!(state, State::Failing { since } if now.duration_since(*since) >= PATIENCE)
            })
    }

    /// Events wait for it.
    pub(crate) fn met(&self, partition: &Partition) {
        self.know(partition, State::Untried);
    }

    /// Events of it are held, by whoever owned their slot before.
    pub(crate) fn found_set_aside(&self, partition: &Partition) {
        self.know(partition, State::SetAside);
    }

    /// Of a partition that nothing was known of.
    fn know(&self, partition: &Partition, state: State) {
        let mut states = self.states();
        if !states.contains_key(partition) {
            states.insert(partition.clone(), state);
        }
    }

    pub(crate) fn accepted(&self, partition: &Partition) {
        self.states().insert(partition.clone(), State::Accepting);
    }

    /// A request failed. True when the partition is to be set aside, which it then is.
    pub(crate) fn failed(&self, partition: &Partition) -> bool {
        let now = Instant::now();
        let mut states = self.states();
        let state = match states.get(partition) {
            Some(state @ (State::Failing { .. } | State::SetAside)) => *state,
            Some(State::Accepting | State::Untried) | None => State::Failing { since: now },
        };
        let others = states
            .iter()
            .filter(|(other, _)| *other != partition)
            .map(|(_, state)| *state);
        let due = is_due(state, others, now);
        let state = if due { State::SetAside } else { state };
        states.insert(partition.clone(), state);
        due
    }

    /// Nobody sends there any more.
    pub(crate) fn forget(&self, partition: &Partition) {
        self.states().remove(partition);
        self.end_probe(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_set_aside_only_while_another_can_be_written() {
        let since = Instant::now();
        let soon = since + PATIENCE * 999 / 1_000;
        let due = since + PATIENCE;
        let failing = State::Failing { since };
        assert!(!is_due(failing, [State::Accepting], soon));
        assert!(is_due(failing, [State::Accepting], due));
        assert!(is_due(failing, [failing, State::Untried], due));
        assert!(!is_due(failing, [failing, State::SetAside], due));
        assert!(!is_due(failing, [], due));
        assert!(!is_due(State::Accepting, [State::Accepting], due));
        assert!(is_due(State::SetAside, [], due));
    }

    #[test]
    fn a_failure_counts_from_the_first_one_since_it_last_worked() {
        let partitions = Partitions::default();
        let (bad, good) = (("t".to_owned(), 0), ("t".to_owned(), 1));
        partitions.accepted(&good);
        assert!(!partitions.failed(&bad));
        let first = partitions.state(&bad);
        assert!(!partitions.failed(&bad));
        assert_eq!(partitions.state(&bad), first);
        partitions.accepted(&bad);
        assert_eq!(partitions.state(&bad), Some(State::Accepting));
    }
}
