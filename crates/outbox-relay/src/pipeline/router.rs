//! The relay's router: which sender each event of a batch goes to, and which go to the holder.

use std::collections::{HashMap, HashSet};

use domain::Slot;
use service::ReadinessIssues;
use storage::lease::HeldLease;
use storage::outbox::{Batch, Destination, Hold, HoldCause, Oversized};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::error;

use crate::event::Dispatched;
use crate::oversized;
use crate::pipeline::in_flight::Slots;
use crate::sender::pool::Senders;
use crate::topics::refresh::Routes;
use crate::topics::routing_table::{Route, Topics};
use crate::topics::unroutable::Unroutable;
use crate::trace::trace_id;
use crate::unavailable::floors::Floors;
use crate::unavailable::recovery::MissingTopics;

/// Routes what was read. See the module.
pub(crate) struct Router {
    pub(crate) routes: Routes,
    pub(crate) senders: Senders,
    holds: mpsc::Sender<Vec<Hold>>,
    /// Topics that held events wait for.
    missing: MissingTopics,
    /// Told which topics are missing.
    failing: ReadinessIssues,
    topics: Topics,
    unroutable: Unroutable,
    /// The number of the latest batch.
    batch: u64,
}

impl Router {
    pub(crate) fn new(
        routes: Routes,
        senders: Senders,
        holds: mpsc::Sender<Vec<Hold>>,
        missing: MissingTopics,
        failing: ReadinessIssues,
    ) -> Self {
        Self {
            routes,
            senders,
            holds,
            missing,
            failing,
            topics: Topics::default(),
            unroutable: Unroutable::default(),
            batch: 0,
        }
    }

    /// Takes over what is new of the topics, and ends the senders of those that changed. Nothing
    /// waits for that: what went out under the old count keeps its slot in flight, and no later
    /// event of its key is read before it is settled or given back.
    pub(crate) fn adopt_topics(&mut self) {
        let news = Topics::clone(&self.routes.topics.borrow());
        if news == self.topics {
            return;
        }
        for topic in self.topics.changed(&news) {
            self.senders.retire(&topic);
        }
        self.topics = news;
    }

    /// Hands each event to the sender of its partition, or to the holder. What neither can take
    /// stays pending. `read` are the slots that these are the first events of; what is handed on is
    /// noted in `slots`.
    pub(crate) fn dispatch(
        &mut self,
        batch: Batch,
        read: &HashSet<Slot>,
        owned: &HashMap<Slot, HeldLease>,
        slots: &mut Slots,
    ) -> usize {
        let now = Instant::now();
        self.batch += 1;
        let mut dispatched = 0;
        let mut holds: Vec<Hold> = batch
            .oversized
            .into_iter()
            .map(|event| hold_oversized(event, owned))
            .collect();
        let floors = Floors::new(batch.groups);
        let mut unroutable = HashSet::new();
        for pending in batch.events {
            let (slot, bytes) = (pending.slot, pending.bytes);
            let event = Dispatched {
                slot,
                epoch: owned[&slot].epoch,
                batch: self.batch,
                id: pending.id,
                version: pending.version,
                destination: Destination::NOWHERE,
                event: pending.event,
            };
            if pending.blocked_by.is_some() {
                holds.push(event.to_hold(HoldCause::Blocked, None, 0));
                continue;
            }
            let topic = &event.event.topic;
            match self.topics.route(topic, &event.event.key) {
                Route::Partition(destination) => {
                    let event = Dispatched {
                        destination,
                        ..event
                    };
                    let topic = &event.event.topic;
                    if !floors.is_empty() && floors.hold_back(slot, topic, destination, event.id) {
                        holds.push(follow(&event));
                    } else if self.senders.send(event) {
                        slots.dispatched(slot, bytes);
                        dispatched += 1;
                    }
                }
                Route::Impossible(error) => {
                    let (key, id) = (&event.event.key, event.id);
                    let trace_id = trace_id(&event.event);
                    error!(
                        topic,
                        key, id, %error, trace_id, "dead letter: no topic can have this name"
                    );
                    let error = Some(error.into_owned());
                    holds.push(event.to_hold(HoldCause::Dead, error, 0));
                }
                Route::Unknown => {
                    unroutable.insert((topic.clone(), slot));
                    if floors.hold_back(slot, topic, event.destination, event.id) {
                        holds.push(follow(&event));
                    } else if self.topics.are_looked_up() && self.unroutable.is_due(topic, now) {
                        let error = self.topics.refusal(topic);
                        let error = error.unwrap_or("the topic does not exist").to_owned();
                        let error = Some(error);
                        holds.push(event.to_hold(HoldCause::Unavailable, error, 0));
                    }
                }
            }
        }
        self.unroutable.read(read, unroutable, now);
        self.report_missing_topics(owned);
        dispatched + self.hold(holds, slots)
    }

    /// Asks for the topics that events wait for, pending or held, and reports them.
    pub(crate) fn report_missing_topics(&mut self, owned: &HashMap<Slot, HeldLease>) {
        let held = self.missing.get();
        let owned = |slot| owned.contains_key(&slot);
        let failing = &self.failing;
        self.unroutable
            .tell(owned, &held, &self.topics, failing, Instant::now());
        // Full: it has topics to look up already, and events stay until it has.
        self.unroutable
            .ask(|topic| self.routes.wanted.try_send(topic.to_owned()).is_ok());
    }

    /// Passes events to the holder; they stay pending when it has more than it can do.
    fn hold(&self, holds: Vec<Hold>, slots: &mut Slots) -> usize {
        let held: Vec<Slot> = holds.iter().map(|hold| hold.slot).collect();
        if held.is_empty() || self.holds.try_send(holds).is_err() {
            return 0;
        }
        for slot in &held {
            // Their payloads are let go.
            slots.dispatched(*slot, 0);
        }
        held.len()
    }
}

/// Earlier events of its partition are held: it follows them.
fn follow(event: &Dispatched) -> Hold {
    let reason = "an earlier event of its partition is held";
    event.to_hold(HoldCause::Unavailable, Some(reason.to_owned()), 0)
}

/// Dead wherever it would go, and whatever it waits for.
fn hold_oversized(event: Oversized, owned: &HashMap<Slot, HeldLease>) -> Hold {
    let error = oversized::reason(event.bytes);
    let Oversized {
        slot,
        id,
        version,
        topic,
        key,
        ..
    } = event;
    oversized::tell(&topic, &key, id, &error);
    Hold {
        slot,
        epoch: owned[&slot].epoch,
        id,
        version,
        topic,
        key,
        destination: Destination::NOWHERE,
        cause: HoldCause::Dead,
        error: Some(error),
        attempts: 0,
    }
}
