//! Returns the events of partitions that were set aside: probes each partition with its first
//! events, and when Kafka takes them moves the rest back to pending.
//!
//! Order does not rest on this module: a moved event whose key still has a held one before it is
//! parked again when it is read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{OutboxEvent, Slot};
use service::{CancellationToken, Problems, Reminder};
use storage::lease::Leases;
use storage::outbox::{Unavailable, move_back, unavailable};
use storage::{Connection, OwnConnection, StorageError, within};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::app::LEASE_SCOPE;
use crate::partitions::{Partition, Partitions, State};
use crate::probing::{Candidates, Turns};
use crate::routes::{Route, Topics};
use crate::waiting::{End, Place, Waiting};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Events looked at per statement.
const PAGE: i64 = 500;
/// Events moved back per transaction: each key of them is a lock.
const MOVED_AT_ONCE: usize = 200;
/// Pages without anything to move after which a look goes on with the next topic, and here later.
const BARREN_PAGES: usize = 20;

/// Unavailable events to be sent once, to see whether their partition is back.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) partition: Partition,
    pub(crate) slot: Slot,
    pub(crate) epoch: i64,
    /// Ascending by id.
    pub(crate) events: Vec<(i64, OutboxEvent)>,
}

/// A page of unavailable events, told apart.
#[derive(Debug, Default)]
struct Sorted {
    /// To be moved back.
    back: Vec<Unavailable>,
    /// To stay, each with the partition to probe for it, if that can be known and helps.
    stay: Vec<(Option<i32>, i64)>,
}

pub(crate) struct Recovery {
    pub(crate) connection: OwnConnection,
    pub(crate) leases: Leases,
    pub(crate) topics: watch::Receiver<Topics>,
    pub(crate) partitions: Partitions,
    pub(crate) waiting: Waiting,
    /// By partition, as the senders tell.
    pub(crate) failing: Problems,
    pub(crate) probes: mpsc::Sender<Probe>,
    pub(crate) turns: Turns,
    /// Told when something is pending again.
    pub(crate) wake: Arc<Notify>,
}

impl Recovery {
    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        let mut known = HashMap::new();
        let mut idle = HashSet::new();
        let mut trouble = Reminder::default();
        let pause = || tokio::time::sleep(LOOK_INTERVAL);
        while stop.run_until_cancelled(pause()).await.is_some() {
            let look = self.look(&mut known);
            match stop.run_until_cancelled(look).await {
                Some(Err(error)) if trouble.is_due(Instant::now()) => {
                    warn!(%error, "cannot look after unavailable events; trying again");
                }
                Some(Err(_)) | None => {}
                Some(Ok(())) => {
                    trouble.end();
                    self.clear_what_nobody_waits_for(&mut idle);
                }
            }
        }
    }

    async fn look(&mut self, known: &mut HashMap<Slot, i64>) -> Result<(), StorageError> {
        let owned: HashMap<Slot, i64> = self
            .leases
            .ownership()
            .units()
            .filter(|(_, tenure)| !tenure.leaving)
            .filter_map(|(unit, tenure)| Some((Slot::try_from(unit).ok()?, tenure.epoch)))
            .collect();
        known.retain(|slot, epoch| owned.get(slot) == Some(epoch));
        self.waiting
            .places()
            .retain(|(slot, _), _| owned.contains_key(slot));
        let mut conn = self.connection.take().await?;
        for (slot, epoch) in &owned {
            if known.get(slot) != Some(epoch) {
                self.discover(&mut conn, *slot).await?;
                known.insert(*slot, *epoch);
            }
        }
        let places: Vec<((Slot, String), Place)> = self
            .waiting
            .places()
            .iter()
            .map(|(name, place)| (name.clone(), *place))
            .collect();
        let mut candidates = Candidates::default();
        for ((slot, topic), place) in places {
            if let Some(epoch) = owned.get(&slot) {
                self.bring_back(&mut conn, (slot, *epoch), &topic, place, &mut candidates)
                    .await?;
            }
        }
        self.probe(&mut conn, candidates).await?;
        self.connection.keep(conn);
        Ok(())
    }

    /// A partition that is set aside and has no events here is not probed: whether it works is for
    /// others to say, and the next event of it. `idle` are those of the look before: the events of
    /// one that was just set aside may not be noted yet.
    fn clear_what_nobody_waits_for(&self, idle: &mut HashSet<Partition>) {
        let set_aside = self.partitions.set_aside();
        let places = self.waiting.places();
        let waited_for: HashSet<&str> = places.keys().map(|(_, topic)| topic.as_str()).collect();
        let now = set_aside.into_iter();
        let now: HashSet<Partition> = now
            .filter(|(topic, _)| !waited_for.contains(topic.as_str()))
            .collect();
        for (topic, partition) in now.intersection(idle) {
            self.failing.clear(format_args!("{topic}/{partition}"));
        }
        *idle = now;
    }

    /// What the slot's owners before us left.
    async fn discover(&self, conn: &mut Connection, slot: Slot) -> Result<(), StorageError> {
        let mut after = i64::MIN;
        loop {
            let page = within(DEADLINE, unavailable(conn, slot, after, PAGE)).await?;
            for event in &page {
                self.waiting.lies(slot, &event.topic, event.id);
            }
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.id;
        }
    }

    /// Walks a topic's unavailable events of a slot: moves back those whose partition works, and
    /// notes the first ones of each that was set aside for its probe. Probes need a walk from the
    /// front: further on, a key's first event may lie behind us.
    async fn bring_back(
        &self,
        conn: &mut Connection,
        (slot, epoch): (Slot, i64),
        topic: &str,
        place: Place,
        candidates: &mut Candidates,
    ) -> Result<(), StorageError> {
        let (mut after, mut barren, mut moved) = (place.next, 0, 0);
        let mut first = None;
        let end = loop {
            let page = within(DEADLINE, unavailable(conn, slot, after, PAGE)).await?;
            let Some(last) = page.last() else {
                break End::Reached;
            };
            after = last.id;
            let page = page.into_iter().filter(|event| event.topic == topic);
            let Sorted { back, stay } = self.sort(topic, page);
            first = first.or(stay.iter().map(|(_, id)| *id).min());
            if place.next == place.front {
                for (partition, id) in &stay {
                    if let Some(partition) = partition {
                        let partition = (topic.to_owned(), *partition);
                        candidates.add(partition, slot, epoch, *id);
                    }
                }
            }
            barren = if back.is_empty() { barren + 1 } else { 0 };
            for part in back.chunks(MOVED_AT_ONCE) {
                let member = self.leases.member();
                let returned = move_back(conn, LEASE_SCOPE, member, (slot, epoch), part);
                moved += within(DEADLINE, returned).await?;
                self.wake.notify_one();
            }
            if barren == BARREN_PAGES {
                break End::Unfinished(after);
            }
        };
        if moved > 0 {
            let slot = slot.number();
            info!(
                topic,
                slot,
                events = moved,
                "unavailable events are pending again"
            );
        }
        self.waiting.looked(slot, topic, place, end, first);
        Ok(())
    }

    fn sort(&self, topic: &str, page: impl Iterator<Item = Unavailable>) -> Sorted {
        let mut sorted = Sorted::default();
        for event in page {
            let partition = match self.topics.borrow().route(topic, &event.key) {
                Route::Partition(partition) => Some(partition),
                Route::Unknown => None,
                // Once pending, it is read, and becomes a dead letter.
                Route::Impossible(_) => {
                    sorted.back.push(event);
                    continue;
                }
            };
            let state = partition.and_then(|p| self.partitions.state(&(topic.to_owned(), p)));
            match (partition, state) {
                // Once pending, it is read, and parked behind the dead one.
                _ if event.behind_dead => sorted.back.push(event),
                (Some(_), Some(State::Accepting | State::Untried)) => sorted.back.push(event),
                (Some(partition), None | Some(State::SetAside)) => {
                    sorted.stay.push((Some(partition), event.id));
                }
                (None, _) | (Some(_), Some(State::Failing { .. })) => {
                    sorted.stay.push((None, event.id));
                }
            }
        }
        sorted
    }
}
