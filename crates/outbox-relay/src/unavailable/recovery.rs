//! The way back of unavailable events. Every 2 s it looks at the groups that lie in the table, in the
//! slots owned, and moves lowest ids back to pending: all of a group whose circuit is closed, a few for
//! a test where it is open, and whatever was routed under another number of partitions.
//!
//! Order does not rest on this module: [`super::floors`] holds back what must not overtake.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::Slot;
use service::{CancellationToken, FailureReporter, ReadinessIssues};
use storage::StorageError;
use storage::lease::Leases;
use storage::outbox::{Destination, MoveFrom, UnavailableGroup};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::circuits::{Circuits, Partition, WayBack};
use crate::ports::OutboxConnection;
use crate::slow_reads::{Read, SlowReads};
use crate::topics::routing_table::Topics;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The same while groups are on their way back: what is read meanwhile is still held behind them, and
/// the sooner that goes back too, the sooner new events flow again without the detour.
const RETURN_INTERVAL: Duration = Duration::from_millis(20);
const TASK: &str = "moving unavailable events back";
/// Events moved by one statement, which reads none of them.
const MOVED_AT_ONCE: i64 = 1_000;
/// Events moved for one test.
const TESTED_AT_ONCE: i64 = 100;

/// Topics that do not exist although held events are for them, as of the latest look. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct MissingTopics(Arc<Mutex<HashSet<String>>>);

impl MissingTopics {
    pub(crate) fn get(&self) -> HashSet<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, topics: HashSet<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = topics;
    }
}

/// Moves events back. See the module.
pub(crate) struct Recovery {
    /// For what is done under the lease.
    pub(crate) connection: Box<dyn OutboxConnection>,
    /// For looking.
    pub(crate) reads: SlowReads,
    pub(crate) leases: Leases,
    pub(crate) topics: watch::Receiver<Topics>,
    pub(crate) circuits: Circuits,
    pub(crate) missing: MissingTopics,
    /// By partition, as the senders report.
    pub(crate) failing: ReadinessIssues,
    /// Told while nothing can be moved.
    pub(crate) postgres: ReadinessIssues,
    /// Woken when something is pending again.
    pub(crate) wake: Arc<Notify>,
    pub(crate) turns: Turns,
}

/// Which slot the latest test of each partition was of.
#[derive(Debug, Default)]
pub(crate) struct Turns(HashMap<Partition, Slot>);

/// Events to move back: the lowest of these destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    slot: Slot,
    topic: String,
    destinations: Vec<Destination>,
    /// No event of them lies below: entries of those that went back need not be walked again.
    lowest: i64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To be routed under today's number of partitions, whatever the circuits.
    Reroute,
    /// Until the group is empty or the circuit opens.
    Drain,
    /// One statement for one request.
    Test,
}

impl Recovery {
    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        let mut reporter = FailureReporter::with(self.postgres.issue(TASK));
        let mut without_events = HashSet::new();
        let mut pause = LOOK_INTERVAL;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            let Some(scanned) = stop.run_until_cancelled(self.look()).await else {
                return;
            };
            pause = LOOK_INTERVAL;
            let failed = match scanned {
                Ok(scanned) => {
                    self.forget_circuits_without_events(&scanned.groups, &mut without_events);
                    if scanned.moved {
                        pause = RETURN_INTERVAL;
                    }
                    scanned.failed
                }
                Err(error) => Some(error),
            };
            match failed {
                None => {
                    reporter.succeeded();
                }
                Some(error) => reporter.failed(
                    &error,
                    |error| warn!(%error, "cannot move unavailable events back; trying again"),
                ),
            }
        }
    }

    /// Looks at all groups of the slots owned and moves what can go back, for the time between two
    /// looks at most. An error in one group does not end the look at the others.
    async fn look(&mut self) -> Result<Scanned, StorageError> {
        let started = Instant::now();
        let owned = self.owned();
        let groups = self.find_groups(&owned).await?;
        let topics = Topics::clone(&self.topics.borrow());
        self.missing.set(
            groups
                .iter()
                .filter(|group| !topics.knows(&group.topic))
                .map(|group| group.topic.clone())
                .collect(),
        );
        let mut moves = plan(&groups, &topics, &self.circuits, &mut self.turns, started);
        let mut failed = None;
        let (mut tested, mut returned) = (0, 0);
        while !moves.is_empty() && started.elapsed() < LOOK_INTERVAL {
            let mut left = Vec::new();
            for next in moves {
                match self.move_back(&next, owned[&next.slot]).await {
                    Ok(count) if next.kind == Kind::Test => tested += count,
                    Ok(count) => {
                        returned += count;
                        if count == MOVED_AT_ONCE {
                            left.push(next);
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            moves = left;
        }
        if tested > 0 {
            debug!(events = tested, "moved unavailable events back for a test");
        }
        if returned > 0 {
            info!(
                events = returned,
                "moved unavailable events back to pending"
            );
        }
        Ok(Scanned {
            groups,
            moved: returned > 0,
            failed,
        })
    }

    /// Where it takes long to find the groups of a single slot, the slots behind it do not wait: it has
    /// longer the next time.
    async fn find_groups(
        &mut self,
        owned: &BTreeMap<Slot, i64>,
    ) -> Result<Vec<UnavailableGroup>, StorageError> {
        let slots: Vec<Slot> = owned.keys().copied().collect();
        let mut rest = &slots[..];
        let mut groups = Vec::new();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(self.reads.slots_at_once().min(rest.len()));
            let connection = self.reads.connect().await?;
            let started = Instant::now();
            let found = connection.unavailable_groups(part).await;
            match self.reads.judge(part.len(), started.elapsed(), found)? {
                Read::Done { value, .. } => groups.extend(value),
                Read::RanIntoLimit if part.len() > 1 => continue,
                Read::RanIntoLimit => {}
            }
            rest = later;
        }
        Ok(groups)
    }

    /// The slots owned and not to be handed over, with their epochs.
    fn owned(&self) -> BTreeMap<Slot, i64> {
        let ownership = self.leases.ownership();
        let kept = ownership.units().filter(|(_, tenure)| !tenure.leaving);
        kept.filter_map(|(unit, tenure)| Some((Slot::try_from(unit).ok()?, tenure.epoch)))
            .collect()
    }

    async fn move_back(&mut self, next: &Move, epoch: i64) -> Result<i64, StorageError> {
        let limit = match (next.kind, &next.destinations[..]) {
            (Kind::Reroute, _) => MOVED_AT_ONCE,
            (Kind::Test, _) => TESTED_AT_ONCE,
            (Kind::Drain, destinations) => {
                let open =
                    |to: &Destination| self.circuits.is_open(&(next.topic.clone(), to.partition));
                if destinations.iter().any(open) {
                    return Ok(0);
                }
                MOVED_AT_ONCE
            }
        };
        let member = self.leases.member();
        let of = (next.slot, epoch);
        let from = MoveFrom {
            topic: &next.topic,
            destinations: &next.destinations,
            lowest: next.lowest,
        };
        let moved = self.connection.move_back(member, of, from, limit).await?;
        if moved > 0 {
            self.wake.notify_one();
        }
        Ok(moved)
    }

    /// An open circuit whose partition has no held events here is not tested, so it tells nothing: the
    /// next event tries again. `before` are those of the look before, since the events of one that has
    /// just opened may not be in the table yet.
    fn forget_circuits_without_events(
        &self,
        groups: &[UnavailableGroup],
        before: &mut HashSet<Partition>,
    ) {
        let held: HashSet<(&str, i32)> = groups
            .iter()
            .map(|group| (group.topic.as_str(), group.destination.partition))
            .collect();
        let mut now: HashSet<Partition> = self.circuits.all_open().into_iter().collect();
        now.retain(|(topic, partition)| !held.contains(&(topic.as_str(), *partition)));
        for partition in now.intersection(before) {
            self.circuits.forget(partition);
            let (topic, partition) = partition;
            self.failing.clear(format_args!("{topic}/{partition}"));
        }
        *before = now;
    }
}

/// What a look found.
struct Scanned {
    groups: Vec<UnavailableGroup>,
    /// Some events moved for good, not for a test.
    moved: bool,
    /// What became of some groups.
    failed: Option<StorageError>,
}

/// What to move back now. Grants the tests it plans.
fn plan(
    groups: &[UnavailableGroup],
    topics: &Topics,
    circuits: &Circuits,
    turns: &mut Turns,
    now: Instant,
) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    if !topics.are_looked_up() {
        // Nothing could be routed.
        return moves;
    }
    let mut tests: BTreeMap<Partition, BTreeMap<Slot, (Destination, i64)>> = BTreeMap::new();
    for group in groups {
        let (slot, topic, destination) = (group.slot, &group.topic, group.destination);
        let add = |destinations, kind| Move {
            slot,
            topic: topic.clone(),
            destinations,
            lowest: group.lowest,
            kind,
        };
        if topics.partition_count(topic) != Some(destination.partition_count) {
            // Groups are in order, so those of one slot and topic follow each other.
            match moves.last_mut() {
                Some(last)
                    if last.kind == Kind::Reroute && last.slot == slot && last.topic == *topic =>
                {
                    last.destinations.push(destination);
                    last.lowest = last.lowest.min(group.lowest);
                }
                _ => moves.push(add(vec![destination], Kind::Reroute)),
            }
            continue;
        }
        if destination == Destination::NOWHERE {
            // They wait for their topic.
            continue;
        }
        let partition = (topic.clone(), destination.partition);
        match circuits.way_back(&partition, now) {
            WayBack::Closed => moves.push(add(vec![destination], Kind::Drain)),
            WayBack::TestDue => {
                tests
                    .entry(partition)
                    .or_default()
                    .insert(slot, (destination, group.lowest));
            }
            WayBack::Open => {}
        }
    }
    for (partition, slots) in tests {
        let (slot, (destination, lowest)) = turns.next(&partition, &slots);
        circuits.grant_test(&partition, now);
        moves.push(Move {
            slot,
            topic: partition.0,
            destinations: vec![destination],
            lowest,
            kind: Kind::Test,
        });
    }
    // What must be routed anew holds back all of its slot and topic.
    moves.sort_by_key(|next| next.kind != Kind::Reroute);
    moves
}

impl Turns {
    /// The slots take turns: what is wrong with the events of one must not keep the partition from
    /// coming back.
    fn next(
        &mut self,
        partition: &Partition,
        slots: &BTreeMap<Slot, (Destination, i64)>,
    ) -> (Slot, (Destination, i64)) {
        let latest = self.0.get(partition);
        let later = slots
            .iter()
            .find(|(slot, _)| latest.is_none_or(|l| *slot > l));
        let (slot, first) = later
            .or_else(|| slots.first_key_value())
            .expect("a test has a slot");
        self.0.insert(partition.clone(), *slot);
        (*slot, *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: i32) -> Slot {
        Slot::try_from(number).unwrap()
    }

    fn group(number: i32, partition_count: i32, partition: i32) -> UnavailableGroup {
        UnavailableGroup {
            slot: slot(number),
            topic: "t".to_owned(),
            destination: Destination {
                partition_count,
                partition,
            },
            lowest: 1,
        }
    }

    fn topics(count: i32) -> Topics {
        let counts = HashMap::from([("t".to_owned(), count)]);
        Topics::new(counts, HashMap::new(), HashMap::new())
    }

    fn kinds(moves: &[Move]) -> Vec<(i32, usize, Kind)> {
        moves
            .iter()
            .map(|m| (m.slot.number().into(), m.destinations.len(), m.kind))
            .collect()
    }

    #[test]
    fn a_partition_never_written_to_is_tested_at_once_and_the_slots_take_turns() {
        let (circuits, mut turns) = (Circuits::default(), Turns::default());
        let groups = [group(1, 6, 0), group(4, 6, 0), group(9, 6, 0)];
        let mut now = Instant::now();
        let mut tested = Vec::new();
        for _ in 0..4 {
            let moves = plan(&groups, &topics(6), &circuits, &mut turns, now);
            tested.extend(kinds(&moves));
            now += Duration::from_secs(8);
        }
        let test = |slot| (slot, 1, Kind::Test);
        assert_eq!(tested, [test(1), test(4), test(9), test(1)]);
        circuits.close(&("t".to_owned(), 0), now);
        let moves = plan(&groups, &topics(6), &circuits, &mut turns, now);
        let drain = |slot| (slot, 1, Kind::Drain);
        assert_eq!(kinds(&moves), [drain(1), drain(4), drain(9)]);
    }

    #[test]
    fn what_was_routed_under_another_count_goes_first_and_whatever_the_circuits() {
        let (circuits, mut turns) = (Circuits::default(), Turns::default());
        let now = Instant::now();
        circuits.open(&("t".to_owned(), 1), now);
        let groups = [
            group(1, 6, 1),
            group(2, 4, 1),
            group(2, 4, 3),
            group(2, 6, 1),
        ];
        let moves = plan(&groups, &topics(6), &circuits, &mut turns, now);
        assert_eq!(kinds(&moves), [(2, 2, Kind::Reroute)]);
    }

    #[test]
    fn events_of_a_missing_topic_wait_until_it_is_there() {
        let (circuits, mut turns) = (Circuits::default(), Turns::default());
        let now = Instant::now();
        let groups = [group(1, 0, -1)];
        let none = Topics::new(HashMap::new(), HashMap::new(), HashMap::new());
        assert!(plan(&groups, &none, &circuits, &mut turns, now).is_empty());
        let unknown = plan(
            &[group(1, 6, 0)],
            &Topics::default(),
            &circuits,
            &mut turns,
            now,
        );
        assert!(unknown.is_empty(), "Kafka has not been asked yet");
        let moves = plan(&groups, &topics(6), &circuits, &mut turns, now);
        assert_eq!(kinds(&moves), [(1, 1, Kind::Reroute)]);
        // Known to be impossible: it is to become a dead letter.
        let impossible = HashMap::from([("t".to_owned(), "no".to_owned())]);
        let topics = Topics::new(HashMap::new(), impossible, HashMap::new());
        let moves = plan(&groups, &topics, &circuits, &mut turns, now);
        assert_eq!(kinds(&moves), [(1, 1, Kind::Reroute)]);
    }
}
