//! What must hold at the end, whatever happened before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use domain::{EventType, OrderCreated};

use crate::torture::ledger::{Ledger, Outcome};
use crate::torture::rows::{Event, Record, Rows};
use crate::torture::writers::FOREIGN_TOPIC;

/// Violations of one kind that are shown; the others are counted.
const SHOWN: usize = 5;

/// What the checkers found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// In words.
    pub(crate) violations: Vec<String>,
    /// Acknowledged, or committed, and not where it must be.
    pub(crate) lost: usize,
    /// Effects that happened twice.
    pub(crate) twice: usize,
    /// Events that overtook one of their key.
    pub(crate) out_of_order: usize,
    /// Records of an event that was in Kafka already.
    pub(crate) duplicates: usize,
}

/// Runs all checkers.
pub(crate) fn check(ledger: &Ledger, rows: &Rows, records: &[Record]) -> Findings {
    let mut findings = Findings::default();
    let found = &mut findings;
    let events: HashMap<&str, &Event> = index(&rows.events, |event| event.id.as_str());
    let published: HashSet<&str> = records.iter().map(|r| r.event_id.as_str()).collect();

    orders(found, ledger, rows);
    cancellations(found, ledger, rows);
    pairs(found, rows);
    transactions(found, ledger, &events, &published);
    found.duplicates = records.len() - published.len();
    let lost = rows.events.iter().map(|event| event.id.as_str());
    found.lost += found.report(
        "events are not in Kafka",
        lost.filter(|event| !published.contains(event)),
    );
    let strange = published
        .iter()
        .filter(|event| !events.contains_key(**event));
    found.report("records are of no event", strange);
    order(found, rows, records);
    places(found, rows, records);
    effects(found, rows, &published);
    found.report("dead letters", rows.dead_letters.iter());
    found.report("answers are wrong", ledger.wrong.iter());
    findings
}

impl Findings {
    /// Notes violations of one kind, and returns how many they are.
    fn report<T: ToString>(&mut self, what: &str, offenders: impl Iterator<Item = T>) -> usize {
        let offenders: Vec<String> = offenders.map(|offender| offender.to_string()).collect();
        if let Some(shown) = offenders.get(..offenders.len().min(SHOWN))
            && !shown.is_empty()
        {
            let (count, shown) = (offenders.len(), shown.join("; "));
            self.violations.push(format!("{count} {what}: {shown}"));
        }
        offenders.len()
    }
}

/// What was answered with 201 is there; what was refused is not.
fn orders(found: &mut Findings, ledger: &Ledger, rows: &Rows) {
    let with = |outcome| ledger.orders.iter().filter(move |o| o.outcome == outcome);
    let missing = with(Outcome::Done).filter(|placed| {
        let there = placed.id.and_then(|id| rows.orders.get(&id.to_string()));
        there.is_none_or(|order| {
            order.product != placed.product || order.quantity != placed.quantity
        })
    });
    let missing: Vec<_> = missing.map(|placed| format!("{:?}", placed.id)).collect();
    found.lost += found.report("orders were accepted and are not there", missing.iter());
    let there = with(Outcome::NotDone).filter_map(|placed| placed.key.as_ref());
    let there = there.filter(|key| rows.idempotency_keys.contains(*key));
    found.report("orders were refused and are there, by key", there);
    let (done, unknown) = (with(Outcome::Done).count(), with(Outcome::Unknown).count());
    let stored = rows.orders.len();
    if !(done..=done + unknown).contains(&stored) {
        found.violations.push(format!(
            "{stored} orders are stored, {done} were accepted and {unknown} are unknown"
        ));
    }
}

fn cancellations(found: &mut Findings, ledger: &Ledger, rows: &Rows) {
    let with = |outcome, is_cancelled| {
        let asked = ledger.cancellations.iter();
        asked
            .filter(move |asked| asked.outcome == outcome)
            .map(|asked| asked.id.to_string())
            .filter(move |id| {
                let order = rows.orders.get(id);
                order.is_some_and(|order| order.is_cancelled == is_cancelled)
            })
    };
    let lost = found.report("cancellations are lost", with(Outcome::Done, false));
    found.lost += lost;
    found.report(
        "cancellations were refused and happened",
        with(Outcome::NotDone, true),
    );
}

/// P1: an order has its event and an event its order, and so have cancellations.
fn pairs(found: &mut Findings, rows: &Rows) {
    let own = rows.events.iter().filter(|event| !event.is_foreign);
    let (mut created, mut cancelled) = (HashMap::new(), HashMap::new());
    for event in own {
        let count = match event.topic.as_str() {
            OrderCreated::TOPIC => &mut created,
            _ => &mut cancelled,
        };
        *count.entry(event.key.as_str()).or_insert(0) += 1;
    }
    let orders = rows.orders.iter();
    let wrong = orders.filter(|(id, order)| {
        let events = |of: &HashMap<&str, i32>| of.get(id.as_str()).copied().unwrap_or_default();
        events(&created) != 1 || events(&cancelled) != i32::from(order.is_cancelled)
    });
    found.report(
        "orders do not have just their events",
        wrong.map(|(id, _)| id),
    );
    let orphans = created.keys().chain(cancelled.keys());
    let orphans = orphans.filter(|key| !rows.orders.contains_key(**key));
    found.report("events are of no order", orphans);
}

fn transactions(
    found: &mut Findings,
    ledger: &Ledger,
    events: &HashMap<&str, &Event>,
    published: &HashSet<&str>,
) {
    let (mut lost, mut undone, mut partial) = (Vec::new(), Vec::new(), Vec::new());
    for written in &ledger.transactions {
        let stored = |event: &&String| events.contains_key(event.as_str());
        let count = written.events.iter().filter(stored).count();
        let missing = written.events.iter().filter(|event| !stored(event));
        match written.outcome {
            Outcome::Done => lost.extend(missing),
            Outcome::NotDone => {
                let traces = written.events.iter();
                undone.extend(traces.filter(|e| stored(e) || published.contains(e.as_str())));
            }
            Outcome::Unknown if count == 0 || count == written.events.len() => {}
            Outcome::Unknown => partial.extend(missing),
        }
    }
    found.lost += found.report("events were committed and are not there", lost.iter());
    found.report("events were rolled back and are there", undone.iter());
    found.report("events of half a transaction are missing", partial.iter());
}

/// P3: of each topic and key, first occurrences are in the order of the ids.
fn order(found: &mut Findings, rows: &Rows, records: &[Record]) {
    let ids: HashMap<&str, usize> = (rows.events.iter().enumerate())
        .map(|(id, event)| (event.id.as_str(), id))
        .collect();
    let mut seen = HashSet::new();
    let mut latest: HashMap<(&str, &str), usize> = HashMap::new();
    let mut late = Vec::new();
    let firsts = records.iter().filter(|r| seen.insert(r.event_id.as_str()));
    for record in firsts {
        let Some(id) = ids.get(record.event_id.as_str()) else {
            continue;
        };
        let latest = latest.entry((record.topic, &record.key)).or_insert(*id);
        if *latest > *id {
            let (topic, (partition, offset)) = (record.topic, record.place);
            late.push(format!(
                "{} at {topic}/{partition} {offset}",
                record.event_id
            ));
        }
        *latest = (*latest).max(*id);
    }
    found.out_of_order = found.report("events were overtaken", late.iter());
    let wrong = records.iter().filter(|record| {
        let event = ids
            .get(record.event_id.as_str())
            .map(|id| &rows.events[*id]);
        event.is_some_and(|event| (&*event.topic, &event.key) != (record.topic, &record.key))
    });
    found.report(
        "records are of another topic or key than their events",
        wrong.map(|record| &record.event_id),
    );
}

/// The outbox knows where its events are.
fn places(found: &mut Findings, rows: &Rows, records: &[Record]) {
    let records: HashMap<_, _> = index(records, |record| (record.topic, record.place));
    let wrong = rows.events.iter().filter(|event| {
        let there = event
            .place
            .and_then(|at| records.get(&(event.topic.as_str(), at)));
        there.is_none_or(|record| record.event_id != event.id)
    });
    found.report(
        "events are not where the outbox says",
        wrong.map(|event| &event.id),
    );
}

/// P5: each effect happened once.
fn effects(found: &mut Findings, rows: &Rows, published: &HashSet<&str>) {
    let consumed = rows.events.iter().filter(|e| e.topic != FOREIGN_TOPIC);
    let consumed: HashSet<&str> = consumed.map(|event| event.id.as_str()).collect();
    let applied: HashSet<&str> = rows.inbox.iter().map(String::as_str).collect();
    let lost = consumed.difference(&applied);
    // What is not in Kafka is found as such.
    let lost = lost.filter(|event| published.contains(**event));
    found.lost += found.report("events have no effect", lost);
    found.report("effects are of no event", applied.difference(&consumed));

    let mut expected: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let happened = rows.events.iter().filter(|e| rows.inbox.contains(&e.id));
    for (product, orders, units) in happened.filter_map(|event| effect(event, rows)) {
        let sums = expected.entry(product).or_default();
        *sums = (sums.0 + orders, sums.1 + units);
    }
    let counted = rows.sales.keys().map(String::as_str);
    let products: BTreeSet<&str> = expected.keys().copied().chain(counted).collect();
    let mut wrong = Vec::new();
    for product in products {
        let expected = expected.get(product).copied().unwrap_or_default();
        let there = rows.sales.get(product).copied().unwrap_or_default();
        found.twice += excess(expected, there);
        found.lost += excess(there, expected);
        if expected != there {
            wrong.push(format!("{product} {there:?} and not {expected:?}"));
        }
    }
    found.report("products have wrong sums of orders and units", wrong.iter());
}

/// What an event adds to the orders and units of a product.
fn effect<'a>(event: &'a Event, rows: &'a Rows) -> Option<(&'a str, i64, i64)> {
    let sign = if event.topic == OrderCreated::TOPIC {
        1
    } else {
        -1
    };
    if event.is_foreign {
        return event.product.as_deref().map(|product| (product, 1, 1));
    }
    let order = rows.orders.get(&event.key)?;
    Some((&order.product, sign, sign * i64::from(order.quantity)))
}

/// By how many orders the second is more.
fn excess((orders, _): (i64, i64), (more, _): (i64, i64)) -> usize {
    usize::try_from(more - orders).unwrap_or_default()
}

fn index<'a, T, K: Eq + Hash>(all: &'a [T], key: impl Fn(&'a T) -> K) -> HashMap<K, &'a T> {
    all.iter().map(|value| (key(value), value)).collect()
}

#[cfg(test)]
mod tests;
