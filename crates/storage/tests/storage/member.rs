//! A member of the outbox's lease scope that does a relay's work in single steps, and may stop
//! between any two of them.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use domain::Slot;
use rand::RngExt;
use rand::rngs::StdRng;
use storage::lease::{Keeper, Leases};
use storage::outbox::{
    BatchLimits, Destination, HeldEvents, Hold, HoldCause, PendingEvent, Settled, hold,
    read_pending, settle,
};
use storage::{Connection, Database, Session, StorageError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::lease_interleaving::TTL;
use crate::support::{Fixture, SOURCE, settled};

pub(crate) const SCOPE: &str = "outbox-relay";
/// Events whose keys begin with it can never be produced.
pub(crate) const POISON: &str = "poison";

/// What left the members, as Kafka would have it, and what was seen of their fences.
#[derive(Default)]
pub(crate) struct Log {
    /// Key and id.
    pub(crate) sent: Vec<(String, i64)>,
    pub(crate) sleeps: usize,
    /// Holds that came after the slot was lost.
    pub(crate) refused: usize,
    /// Marks that moved nothing, or what a successor had in flight.
    pub(crate) late_marks: usize,
}

/// What was read of one slot and is not settled yet.
struct Flight {
    epoch: i64,
    unsent: VecDeque<PendingEvent>,
    /// The first of `unsent` was found to be ours; sending it is the next step.
    checked: bool,
    acknowledged: Vec<Settled>,
}

/// A hold that is under way, with the connection it uses.
type Holding = JoinHandle<(Connection, Result<Vec<HeldEvents>, StorageError>)>;

pub(crate) struct Member {
    keeper: Keeper,
    pub(crate) leases: Leases,
    database: Database,
    connection: Option<Connection>,
    flights: HashMap<Slot, Flight>,
    /// Whose hold is under way, and whether its slot was ours when it began.
    holding: Option<(Slot, bool, Holding)>,
    last_beat: Instant,
    next_beat: Instant,
    wakes: Instant,
    sleeps: bool,
}

impl Member {
    const READ: BatchLimits = BatchLimits {
        events: 4,
        bytes: 1_000_000,
        total_bytes: 1_000_000,
        event_bytes: 1_000_000,
    };
    /// Events that one member can have sent and not settled.
    pub(crate) const MOST_IN_FLIGHT: usize = 4 * 32;

    pub(crate) fn new(database: Database, keeper: Keeper, leases: Leases) -> Self {
        Self {
            keeper,
            leases,
            database,
            connection: None,
            flights: HashMap::new(),
            holding: None,
            last_beat: Instant::now(),
            next_beat: Instant::now(),
            wakes: Instant::now(),
            sleeps: true,
        }
    }

    pub(crate) fn sleep_no_more(&mut self) {
        self.sleeps = false;
    }

    /// Whether it falls asleep here, one time in so many: for longer than its leases last, for less,
    /// or until just before or after somebody else may take them.
    fn falls_asleep(&mut self, one_in: u32, random: &mut StdRng, log: &mut Log) -> bool {
        let asleep = self.sleeps && random.random_ratio(1, one_in);
        if asleep {
            self.wakes = if random.random_bool(0.5) {
                self.last_beat + TTL.mul_f64(random.random_range(0.85..1.05))
            } else {
                Instant::now() + TTL.mul_f64(random.random_range(0.6..2.2))
            };
            log.sleeps += 1;
        }
        asleep
    }

    /// Settles what was sent and gives everything back.
    pub(crate) async fn leave(mut self) {
        let mut sent: Vec<Settled> = self
            .flights
            .drain()
            .flat_map(|(_, flight)| flight.acknowledged)
            .collect();
        settle(self.connect().await, &mut sent).await.unwrap();
        let now = CancellationToken::new();
        now.cancel();
        self.keeper.run(now).await;
    }

    pub(crate) fn has_fair_share(&self, members: usize) -> bool {
        let owned = self.leases.ownership().units().count();
        let all = usize::from(Slot::COUNT.unsigned_abs());
        self.flights.is_empty() && (all / members..=all.div_ceil(members)).contains(&owned)
    }

    /// One step of whatever there is to do.
    pub(crate) async fn step(&mut self, random: &mut StdRng, log: &mut Log, fixture: &Fixture) {
        if Instant::now() < self.wakes {
            return;
        }
        // Beats are no part of the work: who wakes up may work on before the next.
        if Instant::now() >= self.next_beat && random.random_bool(0.3) {
            self.last_beat = Instant::now();
            let pause = self.keeper.beat().await.unwrap();
            self.next_beat = Instant::now() + pause.min(TTL / 6);
            return;
        }
        self.end_of_hold(log).await;
        let slots: Vec<(Slot, i64, bool)> = self
            .leases
            .ownership()
            .units()
            .map(|(unit, tenure)| (unit.try_into().unwrap(), tenure.epoch, tenure.leaving))
            .collect();
        for (slot, _, leaving) in &slots {
            if *leaving && !self.flights.contains_key(slot) {
                self.leases.release(slot.number().into()).await;
            }
        }
        self.keeper.answer_requests().await.unwrap();
        let idle: Vec<&(Slot, i64, bool)> = slots
            .iter()
            .filter(|(slot, _, leaving)| !leaving && !self.flights.contains_key(slot))
            .collect();
        let flying: Vec<Slot> = self.flights.keys().copied().collect();
        if !idle.is_empty() && (flying.is_empty() || random.random_bool(0.3)) {
            let (slot, epoch, _) = idle[random.random_range(0..idle.len())];
            self.read(*slot, *epoch).await;
        } else if !flying.is_empty() {
            let slot = flying[random.random_range(0..flying.len())];
            self.advance(slot, random, log, fixture).await;
        }
    }

    async fn connect(&mut self) -> &mut Connection {
        if self.connection.is_none() {
            let session = Session::leased("test", TTL).with_index_plans();
            self.connection = Some(self.database.connect(&session).await.unwrap());
        }
        self.connection.as_mut().unwrap()
    }

    async fn read(&mut self, slot: Slot, epoch: i64) {
        let conn = self.connect().await;
        let batch = read_pending(conn, &[slot], Self::READ, SOURCE)
            .await
            .unwrap();
        if !batch.events.is_empty() {
            let flight = Flight {
                epoch,
                unsent: batch.events.into(),
                checked: false,
                acknowledged: Vec::new(),
            };
            self.flights.insert(slot, flight);
        }
    }

    async fn advance(&mut self, slot: Slot, random: &mut StdRng, log: &mut Log, fixture: &Fixture) {
        if self
            .holding
            .as_ref()
            .is_some_and(|(held, ..)| *held == slot)
        {
            return;
        }
        let flight = &self.flights[&slot];
        let (epoch, checked) = (flight.epoch, flight.checked);
        let Some(next) = flight.unsent.front() else {
            if !self.falls_asleep(25, random, log) {
                self.settle(slot, log).await;
            }
            return;
        };
        let to_hold = next.event.key.starts_with(POISON) || next.blocked_by.is_some();
        if checked && self.falls_asleep(if to_hold { 2 } else { 150 }, random, log) {
            return;
        }
        let flight = self.flights.get_mut(&slot).unwrap();
        if !checked {
            if self.leases.epoch(slot.number().into()) == Some(epoch) {
                flight.checked = true;
            } else {
                flight.unsent.clear();
            }
            return;
        }
        // However long ago that was.
        flight.checked = false;
        let next = flight.unsent.pop_front().unwrap();
        if to_hold {
            // What follows it in this batch stays pending.
            flight.unsent.clear();
            if self.holding.is_none() {
                self.hold(next, epoch, fixture).await;
            }
        } else {
            let offset = i64::try_from(log.sent.len()).unwrap();
            flight.acknowledged.push(settled(&next, offset));
            log.sent.push((next.event.key, next.id));
        }
    }

    async fn settle(&mut self, slot: Slot, log: &mut Log) {
        let mut acknowledged = self.flights.remove(&slot).unwrap().acknowledged;
        let conn = self.connect().await;
        let moved = settle(conn, &mut acknowledged).await.unwrap();
        log.late_marks += usize::from(moved < acknowledged.len());
    }

    async fn hold(&mut self, event: PendingEvent, epoch: i64, fixture: &Fixture) {
        self.connect().await;
        let mut conn = self.connection.take().unwrap();
        let member = self.leases.member();
        let slot = event.slot;
        let blocked = event.blocked_by.is_some();
        let hold_it = Hold {
            slot,
            epoch,
            id: event.id,
            version: event.version,
            topic: event.event.topic,
            key: event.event.key,
            destination: Destination::NOWHERE,
            cause: if blocked {
                HoldCause::Blocked
            } else {
                HoldCause::Dead
            },
            error: None,
            attempts: 1,
        };
        // Nothing gives a slot back once it is lost: what is not ours now will not be later.
        let ours = fixture
            .number(&format!(
                "select count(*) from lease where scope = '{SCOPE}' and unit = {}
                 and owner = '{member}' and epoch = {epoch}",
                slot.number()
            ))
            .await;
        let holding = tokio::spawn(async move {
            let held = hold(&mut conn, SCOPE, member, &[hold_it]).await;
            (conn, held)
        });
        self.holding = Some((slot, ours == 1, holding));
    }

    /// Takes note of how a hold ended, if it did.
    async fn end_of_hold(&mut self, log: &mut Log) {
        let ended = |(_, _, holding): &mut (Slot, bool, Holding)| holding.is_finished();
        if let Some((slot, was_ours, holding)) = self.holding.take_if(ended) {
            let (conn, held) = holding.await.unwrap();
            match held {
                Ok(held) => {
                    let events: i64 = held.iter().map(|held| held.events).sum();
                    assert!(was_ours || events == 0, "a lost slot's event was held");
                    log.refused += usize::from(!was_ours);
                    self.connection = Some(conn);
                }
                // Its key is locked, or the transaction took too long: it stays pending.
                Err(error) => println!("slot {}: {error}", slot.number()),
            }
        }
    }
}
