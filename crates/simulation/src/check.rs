//! What must be true, and who notices if it is not.
//!
//! The oracle knows every event that was written, every request that carried one, and what became of
//! it. It is told of all that happens in the world and knows nothing of the services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::EventId;
use messaging::{KafkaError, OutgoingRecord};
use storage::lease::MemberId;
use uuid::Uuid;

use crate::database::{Database, LeaseKey};
use crate::world::HostId;

/// What is special about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// Kafka takes no record of this size, until the topic's limit is raised.
    TooLarge,
    /// No consumer can ever read it.
    Unreadable,
    /// The handler refuses it, until it is mended.
    Refused,
}

/// An event that was written.
#[derive(Debug)]
struct Written {
    id: i64,
    target: (String, String),
    kind: Kind,
    committed: bool,
    copies: Vec<Copy>,
    /// A copy may follow for a reason that nobody in the world can see.
    excused: bool,
    /// It was appended to a topic that has been deleted since.
    in_deleted_topic: bool,
}

/// A copy in Kafka.
#[derive(Debug)]
struct Copy {
    at: Duration,
    request: u64,
    by: HostId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Out,
    /// Kafka has it, and the sender knows.
    Acknowledged,
    /// The sender does not know.
    Unknown,
    /// The sender has moved its events to held, whatever was answered later.
    Abandoned,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Oracle {
    events: BTreeMap<u128, Written>,
    /// With the events of each.
    requests: Vec<(Request, Vec<u128>)>,
    /// The highest id that was appended for each topic and key.
    highest: BTreeMap<(String, String), i64>,
    /// Effects that were looked at, by target.
    seen_effects: BTreeMap<String, usize>,
    applied: BTreeSet<u128>,
    /// Topics whose records are not in one order: they have grown or were made again.
    reordered: BTreeSet<String>,
    /// Events that relays gave up on an operator's word, by id.
    given_up: BTreeSet<i64>,
    /// Records that consumers gave up on an operator's word.
    discarded: BTreeSet<u128>,
    failed: BTreeSet<HostId>,
    /// Copies that a process has sent because it did not know of the one before.
    resent: BTreeMap<HostId, u64>,
    /// Something happened that may end a lease before its time.
    leases_may_lapse: bool,
    /// The highest epoch of each unit, who has it, and whether that has ended.
    tenures: BTreeMap<LeaseKey, (i64, MemberId, bool)>,
    /// When events were replayed: a copy must follow.
    replayed: BTreeMap<i64, Duration>,
    mended: bool,
    violation: Option<(Duration, String)>,
    pub duplicates: u64,
}

/// The number of the event in a record.
fn number_of(record: &OutgoingRecord) -> Option<u128> {
    let id = record.headers.get("ce_id")?;
    let id = Uuid::parse_str(std::str::from_utf8(id).ok()?).ok()?;
    Some(id.as_u128())
}

fn index(request: u64) -> usize {
    usize::try_from(request).expect("there are not so many")
}

impl Oracle {
    /// An event is part of a transaction that is open.
    pub fn drawn(&mut self, number: u128, id: i64, target: (&str, &str), kind: Kind) {
        self.events.insert(
            number,
            Written {
                id,
                target: (target.0.to_owned(), target.1.to_owned()),
                kind,
                committed: false,
                copies: Vec::new(),
                excused: false,
                in_deleted_topic: false,
            },
        );
    }

    /// The transaction of these events is committed.
    pub fn committed(&mut self, numbers: &[u128]) {
        for number in numbers {
            if let Some(event) = self.events.get_mut(number) {
                event.committed = true;
            }
        }
    }

    /// How many events were committed.
    pub fn written(&self) -> usize {
        let committed = |event: &&Written| event.committed;
        self.events.values().filter(committed).count()
    }

    /// The first promise that was broken, and when.
    pub fn violation(&self) -> Option<&(Duration, String)> {
        self.violation.as_ref()
    }

    pub fn violated(&mut self, now: Duration, what: String) {
        self.violation.get_or_insert((now, what));
    }

    /// A process crashed or froze: what it had in hand may be sent again.
    pub fn process_failed(&mut self, host: HostId) {
        self.failed.insert(host);
    }

    /// Nobody knows whether a transaction about these events happened.
    pub fn unknown_transaction(&mut self, ids: impl Iterator<Item = i64>) {
        let ids: BTreeSet<i64> = ids.collect();
        self.excuse(|event| ids.contains(&event.id));
    }

    /// These events may be published again on an operator's word.
    pub fn may_be_replayed(&mut self, ids: &BTreeSet<i64>) {
        self.excuse(|event| ids.contains(&event.id));
    }

    /// These events are published again from now on.
    pub fn replayed(&mut self, ids: &[i64], now: Duration) {
        self.replayed.extend(ids.iter().map(|id| (*id, now)));
    }

    /// Something happens after which a lease may end although its owner lives.
    pub fn leases_may_lapse(&mut self) {
        self.leases_may_lapse = true;
    }

    /// Ownership never comes back: looks at the leases after each change of them.
    pub fn check_leases(&mut self, database: &Database) -> Option<String> {
        for (unit, row) in database.leases() {
            let known = self.tenures.get_mut(unit);
            let Some(owner) = row.owner else {
                if let Some((_, _, ended)) = known {
                    *ended = true;
                }
                continue;
            };
            match known {
                Some((epoch, of, ended)) if row.epoch == *epoch && *of == owner && !*ended => {}
                Some((epoch, _, _)) if row.epoch <= *epoch => {
                    let (scope, number) = unit;
                    return Some(format!(
                        "P6: the tenure of {scope}, unit {number}, comes back"
                    ));
                }
                _ => {
                    self.tenures.insert(unit.clone(), (row.epoch, owner, false));
                }
            }
        }
        None
    }

    fn excuse(&mut self, which: impl Fn(&Written) -> bool) {
        for event in self.events.values_mut().filter(|event| which(event)) {
            event.excused = true;
        }
    }

    /// A topic has more partitions than before.
    pub fn grown(&mut self, topic: &str) {
        self.reordered.insert(topic.to_owned());
    }

    /// A topic is gone, with all its records.
    pub fn deleted(&mut self, topic: &str) {
        self.reordered.insert(topic.to_owned());
        let of_topic = |event: &&mut Written| event.target.0 == topic && !event.copies.is_empty();
        for event in self.events.values_mut().filter(of_topic) {
            event.in_deleted_topic = true;
        }
    }

    /// From here on no record is too large and no event refused.
    pub fn mend(&mut self) {
        self.mended = true;
    }

    /// What is special about an event.
    pub fn kind(&self, number: u128) -> Option<Kind> {
        self.events.get(&number).map(|event| event.kind)
    }

    /// A consumer gave a record up.
    pub fn gave_up(&mut self, event: Uuid) {
        self.discarded.insert(event.as_u128());
    }

    fn is(&self, number: u128, kind: Kind) -> bool {
        !self.mended && self.events.get(&number).is_some_and(|e| e.kind == kind)
    }

    /// Whether Kafka refuses the request for its size.
    pub fn is_too_large(&self, records: &[OutgoingRecord]) -> bool {
        let mut numbers = records.iter().filter_map(number_of);
        numbers.any(|number| self.is(number, Kind::TooLarge))
    }

    /// Whether the handler refuses the event.
    pub fn is_refused(&self, event: EventId) -> bool {
        self.is(event.as_uuid().as_u128(), Kind::Refused)
    }

    /// The ids of the events in a request, for people.
    pub fn describe(&self, records: &[OutgoingRecord]) -> String {
        let numbers = records.iter().filter_map(number_of);
        let ids: Vec<i64> = numbers
            .filter_map(|number| Some(self.events.get(&number)?.id))
            .collect();
        format!("{ids:?}")
    }

    /// A process sends a request; returns its number.
    pub fn sends(&mut self, records: &[OutgoingRecord]) -> u64 {
        let numbers = records.iter().filter_map(number_of).collect();
        self.requests.push((Request::Out, numbers));
        self.requests.len() as u64 - 1
    }

    /// The sender of a request knows how it ended.
    pub fn answered(&mut self, request: u64, outcome: &Result<i64, KafkaError>) {
        let (state, _) = &mut self.requests[index(request)];
        if *state == Request::Out {
            *state = match outcome {
                Ok(_) => Request::Acknowledged,
                Err(_) => Request::Unknown,
            };
        }
    }

    /// A process moves these events to held.
    pub fn held(&mut self, ids: impl Iterator<Item = i64>) {
        let ids: BTreeSet<i64> = ids.collect();
        let events = &self.events;
        let held = |number: &u128| events.get(number).is_some_and(|e| ids.contains(&e.id));
        for (state, numbers) in &mut self.requests {
            if *state != Request::Acknowledged && numbers.iter().any(held) {
                *state = Request::Abandoned;
            }
        }
    }

    fn is_acknowledged(&self, request: u64) -> bool {
        self.requests[index(request)].0 == Request::Acknowledged
    }

    /// Records were appended; returns what is wrong about that.
    pub fn appended(
        &mut self,
        (request, by): (u64, HostId),
        records: &[OutgoingRecord],
        now: Duration,
    ) -> Option<String> {
        for number in records.iter().filter_map(number_of) {
            let Some(event) = self.events.get(&number) else {
                return Some(format!("event {number} was never written, and is in Kafka"));
            };
            let id = event.id;
            if !event.committed {
                return Some(format!("event {id} is not committed, and is in Kafka"));
            }
            if event.copies.is_empty() {
                let highest = self.highest.entry(event.target.clone()).or_default();
                if id < *highest {
                    let highest = *highest;
                    let (topic, key) = &event.target;
                    return Some(format!(
                        "P3: event {id} of {topic}/{key} comes after event {highest}"
                    ));
                }
                *highest = id;
            } else {
                self.duplicates += 1;
                let taken_over = |copy: &Copy| {
                    self.failed.contains(&copy.by) || (copy.by != by && self.leases_may_lapse)
                };
                if !event.excused && !event.copies.iter().any(taken_over) {
                    let unknown = |copy: &&Copy| !self.is_acknowledged(copy.request);
                    let Some(copy) = event.copies.iter().rfind(unknown) else {
                        return Some(format!("P4: event {id} is in Kafka twice, for no reason"));
                    };
                    *self.resent.entry(copy.by).or_default() += 1;
                }
            }
            let event = self.events.get_mut(&number).expect("looked up above");
            event.copies.push(Copy {
                at: now,
                request,
                by,
            });
        }
        None
    }

    /// Processes whose metric counted fewer copies than they have sent.
    pub fn check_count(&self, host: HostId, counted: u64) -> Option<String> {
        let resent = self.resent.get(&host).copied().unwrap_or_default();
        (counted < resent).then(|| {
            format!(
                "P4: {resent} events were sent again after an unknown outcome, {counted} counted"
            )
        })
    }

    /// Looks at the effects that are new; returns what is wrong with them.
    pub fn check_effects(&mut self, database: &Database) -> Option<String> {
        for (target, effects) in database.effects() {
            let seen = self.seen_effects.entry(target.clone()).or_default();
            for at in *seen..effects.len() {
                let number = effects[at].as_uuid().as_u128();
                let Some(event) = self.events.get(&number) else {
                    return Some(format!(
                        "an effect of event {number}, which was never written"
                    ));
                };
                let id = event.id;
                if !self.applied.insert(number) {
                    return Some(format!("P5: event {id} of {target} was applied twice"));
                }
                if event.copies.is_empty() {
                    return Some(format!("event {id} was applied and never published"));
                }
                if self.reordered.contains(&event.target.0) {
                    continue;
                }
                let before = at.checked_sub(1).and_then(|before| {
                    let number = effects[before].as_uuid().as_u128();
                    self.events.get(&number)
                });
                if let Some(before) = before.filter(|before| before.id > id) {
                    let before = before.id;
                    return Some(format!(
                        "P5: event {id} of {target} was applied after event {before}"
                    ));
                }
            }
            *seen = effects.len();
        }
        None
    }

    /// Which committed events have not had their effect although they must, at most ten.
    pub fn missing_effects(&self) -> Vec<i64> {
        self.events
            .iter()
            .filter(|(number, event)| {
                event.committed
                    && event.kind != Kind::Unreadable
                    && !event.in_deleted_topic
                    && !self.given_up.contains(&event.id)
                    && !self.applied.contains(number)
                    && !self.discarded.contains(number)
            })
            .map(|(_, event)| event.id)
            .take(10)
            .collect()
    }

    /// Which committed events were never in Kafka and must be, at most ten.
    pub fn never_published(&self) -> Vec<i64> {
        let events = self.events.values();
        let published = |event: &&Written| {
            let since = self.replayed.get(&event.id).copied().unwrap_or_default();
            event.copies.iter().any(|copy| copy.at >= since)
        };
        events
            .filter(|event| event.committed && !published(event))
            .map(|event| event.id)
            .filter(|id| !self.given_up.contains(id))
            .take(10)
            .collect()
    }

    /// Every committed event must be in exactly one state, unless retention has removed it; returns what
    /// is not.
    pub fn check_states(&mut self, database: &Database) -> Option<String> {
        let given_up = database
            .held()
            .filter(|(_, row)| row.discarded_at.is_some());
        self.given_up.extend(given_up.map(|(id, _)| *id));
        let mut states: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
        let mut found = |id: i64, state| states.entry(id).or_default().push(state);
        database
            .pending()
            .for_each(|((_, id), _)| found(*id, "pending"));
        database.held().for_each(|(id, _)| found(*id, "held"));
        database
            .published()
            .for_each(|(id, _)| found(*id, "published"));
        let wrong = database.events().find_map(|(id, _)| match states.get(id) {
            None => Some(format!("P2: event {id} is in no state")),
            Some(states) if states.len() > 1 => Some(format!("event {id} is {states:?}")),
            Some(_) => None,
        });
        if wrong.is_some() {
            return wrong;
        }
        let there: BTreeSet<i64> = database.events().map(|(id, _)| *id).collect();
        let lost = self
            .events
            .values()
            .find(|event| event.committed && event.copies.is_empty() && !there.contains(&event.id));
        lost.filter(|event| !self.given_up.contains(&event.id))
            .map(|event| format!("P2: event {} is gone and was never published", event.id))
    }
}
