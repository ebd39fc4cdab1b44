//! A circuit breaker for each partition, shared by the senders, which report how requests end, and by
//! [`super::recovery`], which grants tests by the clock.
//!
//! Closed: requests are sent. Open: events are held instead. Half-open: one request, the test, is out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time from the opening to the first test. It doubles while tests fail.
const FIRST_TEST: Duration = Duration::from_secs(2);
const LONGEST_TEST_INTERVAL: Duration = Duration::from_secs(8);
/// How long the first test may take. It doubles while tests fail, up to the deadline that every
/// request has.
const FIRST_TEST_DEADLINE: Duration = Duration::from_secs(3);
/// Partitions that were tried longer ago say nothing about the cluster.
const RECENTLY: Duration = Duration::from_mins(1);

/// A topic and one of its partitions.
pub(crate) type Partition = (String, i32);

/// What a sender may do with the events it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    Send,
    /// One request within this time; all else is held.
    Test(Duration),
    Hold,
}

/// What is to be done about the held events of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayBack {
    /// They go back.
    Closed,
    /// Some of them go back for a test.
    TestDue,
    /// They stay.
    Open,
}

#[derive(Debug, Default)]
struct Circuit {
    /// When a request was last sent.
    tried: Option<Instant>,
    /// `None` while the circuit is closed.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    next_test: Instant,
    /// From that test to the one after.
    interval: Duration,
    /// Of the next test.
    deadline: Duration,
    /// The sender may send one request.
    granted: bool,
}

impl Open {
    fn new(next_test: Instant) -> Self {
        Self {
            next_test,
            interval: FIRST_TEST,
            deadline: FIRST_TEST_DEADLINE,
            granted: false,
        }
    }
}

/// The circuits of all partitions that this process has met. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Circuits(Arc<Mutex<HashMap<Partition, Circuit>>>);

impl Circuits {
    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Circuit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked by a sender that is about to send; a test that is granted is used up by it.
    pub(crate) fn permission(&self, partition: &Partition, now: Instant) -> Permission {
        let mut circuits = self.lock();
        if !circuits.contains_key(partition) {
            circuits.insert(partition.clone(), Circuit::default());
        }
        let circuit = circuits.get_mut(partition).expect("inserted above");
        match &mut circuit.open {
            None => {
                circuit.tried = Some(now);
                Permission::Send
            }
            Some(open) if open.granted => {
                open.granted = false;
                circuit.tried = Some(now);
                Permission::Test(open.deadline)
            }
            Some(_) => Permission::Hold,
        }
    }

    /// A request was answered: the partition works. Where it did not before, others may be back too:
    /// their next tests are not far.
    pub(crate) fn close(&self, partition: &Partition, now: Instant) {
        let mut circuits = self.lock();
        let closed = circuits
            .get_mut(partition)
            .is_some_and(|circuit| circuit.open.take().is_some());
        if closed {
            let open = circuits.values_mut().filter_map(|c| c.open.as_mut());
            open.for_each(|open| open.next_test = open.next_test.min(now + FIRST_TEST));
        }
    }

    /// Requests have failed for [`crate::event::PATIENCE`].
    pub(crate) fn open(&self, partition: &Partition, now: Instant) {
        let mut circuits = self.lock();
        let circuit = circuits.entry(partition.clone()).or_default();
        circuit.open.get_or_insert(Open::new(now + FIRST_TEST));
    }

    /// A test failed; what was granted meanwhile is void, since its events are held again. The next
    /// one has more time, up to `longest`.
    pub(crate) fn test_failed(&self, partition: &Partition, longest: Duration) {
        if let Some(Circuit {
            open: Some(open), ..
        }) = self.lock().get_mut(partition)
        {
            open.granted = false;
            open.deadline = (open.deadline * 2).min(longest);
        }
    }

    /// Asked for a partition that has held events. One that this process knows nothing of starts open,
    /// its first test at once.
    pub(crate) fn way_back(&self, partition: &Partition, now: Instant) -> WayBack {
        let mut circuits = self.lock();
        let circuit = circuits.entry(partition.clone()).or_insert(Circuit {
            tried: None,
            open: Some(Open::new(now)),
        });
        match &circuit.open {
            None => WayBack::Closed,
            Some(open) if now >= open.next_test => WayBack::TestDue,
            Some(_) => WayBack::Open,
        }
    }

    /// The sender may send one request; the next test comes by the clock, whatever becomes of it.
    pub(crate) fn grant_test(&self, partition: &Partition, now: Instant) {
        if let Some(Circuit {
            open: Some(open), ..
        }) = self.lock().get_mut(partition)
        {
            open.granted = true;
            open.next_test = now + open.interval;
            open.interval = (open.interval * 2).min(LONGEST_TEST_INTERVAL);
        }
    }

    pub(crate) fn is_open(&self, partition: &Partition) -> bool {
        self.lock()
            .get(partition)
            .is_some_and(|circuit| circuit.open.is_some())
    }

    /// All partitions whose circuits are open.
    pub(crate) fn all_open(&self) -> Vec<Partition> {
        let circuits = self.lock();
        let open = circuits.iter().filter(|(_, c)| c.open.is_some());
        open.map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether each partition that was tried within the last minute is open, and there is one.
    pub(crate) fn total_outage(&self, now: Instant) -> bool {
        let circuits = self.lock();
        let mut recent = circuits
            .values()
            .filter(|c| c.tried.is_some_and(|at| now.duration_since(at) < RECENTLY))
            .peekable();
        recent.peek().is_some() && recent.all(|circuit| circuit.open.is_some())
    }

    /// Nobody sends there any more, or no event is held.
    pub(crate) fn forget(&self, partition: &Partition) {
        self.lock().remove(partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(35);

    fn seconds(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_open_circuit_is_tested_by_the_clock_less_and_less_often() {
        let (circuits, t) = (Circuits::default(), ("t".to_owned(), 0));
        let start = Instant::now();
        assert_eq!(circuits.permission(&t, start), Permission::Send);
        circuits.open(&t, start);
        assert_eq!(circuits.permission(&t, start), Permission::Hold);
        let mut tests = Vec::new();
        for second in 0..40 {
            let now = seconds(start, second);
            if circuits.way_back(&t, now) == WayBack::TestDue {
                tests.push(second);
                circuits.grant_test(&t, now);
            }
        }
        assert_eq!(tests, [2, 4, 8, 16, 24, 32]);
    }

    #[test]
    fn a_test_is_one_request_and_each_has_more_time() {
        let (circuits, t) = (Circuits::default(), ("t".to_owned(), 0));
        let now = Instant::now();
        assert_eq!(circuits.way_back(&t, now), WayBack::TestDue, "unknown");
        let mut deadlines = Vec::new();
        for _ in 0..5 {
            circuits.grant_test(&t, now);
            let Permission::Test(deadline) = circuits.permission(&t, now) else {
                panic!("a test was granted");
            };
            deadlines.push(deadline.as_secs());
            assert_eq!(circuits.permission(&t, now), Permission::Hold);
            circuits.test_failed(&t, LONGEST);
        }
        assert_eq!(deadlines, [3, 6, 12, 24, 35]);
        circuits.close(&t, now);
        assert_eq!(circuits.way_back(&t, now), WayBack::Closed);
        assert_eq!(circuits.permission(&t, now), Permission::Send);
    }

    #[test]
    fn once_one_partition_is_back_the_others_are_tested_soon() {
        let circuits = Circuits::default();
        let [a, b] = [0, 1].map(|partition| ("t".to_owned(), partition));
        let start = Instant::now();
        for partition in [&a, &b] {
            circuits.open(partition, start);
            for second in [2, 4, 8] {
                circuits.grant_test(partition, seconds(start, second));
            }
        }
        assert_eq!(circuits.way_back(&b, seconds(start, 12)), WayBack::Open);
        circuits.close(&a, seconds(start, 10));
        assert_eq!(circuits.way_back(&b, seconds(start, 12)), WayBack::TestDue);
        circuits.grant_test(&b, seconds(start, 12));
        circuits.close(&a, seconds(start, 12));
        assert_eq!(
            circuits.way_back(&b, seconds(start, 14)),
            WayBack::Open,
            "it was closed before"
        );
    }

    #[test]
    fn an_outage_is_total_when_all_that_was_tried_of_late_is_open() {
        let circuits = Circuits::default();
        let [a, b] = [0, 1].map(|partition| ("t".to_owned(), partition));
        let start = Instant::now();
        assert!(!circuits.total_outage(start), "nothing was tried");
        circuits.permission(&a, start);
        circuits.permission(&b, seconds(start, 30));
        circuits.open(&b, seconds(start, 30));
        assert!(!circuits.total_outage(seconds(start, 59)));
        assert!(circuits.total_outage(seconds(start, 60)), "a is long ago");
        circuits.close(&b, seconds(start, 60));
        assert!(!circuits.total_outage(seconds(start, 60)));
        circuits.forget(&b);
        assert!(!circuits.total_outage(seconds(start, 60)));
    }
}
