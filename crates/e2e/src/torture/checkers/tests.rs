//! Each checker finds what it is there for.

use super::*;
use crate::torture::ledger::{Cancelled, Placed, Written};
use crate::torture::rows::Order;

const API: &str = "00000000-0000-0000-0000-000000000001";
const CANCELLED: &str = "00000000-0000-0000-0000-000000000002";

/// A run: two orders, one of them cancelled, and two events of a writer.
struct Run {
    ledger: Ledger,
    rows: Rows,
    records: Vec<Record>,
}

impl Run {
    fn without_a_fault() -> Self {
        let mut run = Self {
            ledger: Ledger::default(),
            rows: Rows::default(),
            records: Vec::new(),
        };
        for (id, is_cancelled) in [(API, false), (CANCELLED, true)] {
            run.order(id, is_cancelled);
        }
        run.event("created-1", "order.created", API, None);
        run.event("created-2", "order.created", CANCELLED, None);
        run.event("cancelled-2", "order.cancelled", CANCELLED, None);
        run.event("written-1", "order.created", "k", Some("w"));
        run.event("written-2", "order.created", "k", Some("w"));
        run.rows.sales.insert("p".to_owned(), (1, 2));
        run.rows.sales.insert("w".to_owned(), (2, 2));
        run.ledger.cancellations.push(Cancelled {
            id: CANCELLED.parse().expect("an id"),
            outcome: Outcome::Done,
        });
        run.ledger.transactions.push(Written {
            events: vec!["written-1".to_owned(), "written-2".to_owned()],
            outcome: Outcome::Done,
        });
        run
    }

    fn order(&mut self, id: &str, is_cancelled: bool) {
        let key = format!("key of {id}");
        self.rows.idempotency_keys.insert(key.clone());
        self.ledger.orders.push(Placed {
            key: Some(key),
            product: "p".to_owned(),
            quantity: 2,
            outcome: Outcome::Done,
            id: Some(id.parse().expect("an id")),
        });
        let order = Order {
            product: "p".to_owned(),
            quantity: 2,
            is_cancelled,
        };
        self.rows.orders.insert(id.to_owned(), order);
    }

    fn event(&mut self, id: &str, topic: &'static str, key: &str, product: Option<&str>) {
        let offset = i64::try_from(self.records.len()).expect("few");
        self.rows.events.push(Event {
            id: id.to_owned(),
            topic: topic.to_owned(),
            key: key.to_owned(),
            is_foreign: product.is_some(),
            product: product.map(str::to_owned),
            place: Some((0, offset)),
        });
        self.rows.inbox.insert(id.to_owned());
        self.record(id, topic, key);
    }

    fn record(&mut self, id: &str, topic: &'static str, key: &str) {
        let offset = i64::try_from(self.records.len()).expect("few");
        self.records.push(Record {
            event_id: id.to_owned(),
            topic,
            key: key.to_owned(),
            place: (0, offset),
        });
    }

    fn check(&self) -> Findings {
        check(&self.ledger, &self.rows, &self.records)
    }
}

/// That a change of the run is found, in these words.
fn finds(words: &str, change: impl FnOnce(&mut Run)) -> Findings {
    let mut run = Run::without_a_fault();
    change(&mut run);
    let findings = run.check();
    let found = findings.violations.iter().any(|v| v.contains(words));
    assert!(found, "{words}: {:?}", findings.violations);
    findings
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(Run::without_a_fault().check().violations, [""; 0]);
}

#[test]
fn lost_orders_and_those_that_nobody_was_told_of_are_found() {
    let found = finds("orders were accepted and are not there", |run| {
        run.rows.orders.remove(API);
    });
    assert!(found.lost > 0);
    finds("orders were accepted and are not there", |run| {
        run.ledger.orders[0].quantity = 3;
    });
    finds("orders were refused and are there", |run| {
        run.ledger.orders[0].outcome = Outcome::NotDone;
    });
    finds("orders are stored", |run| {
        run.ledger.orders.pop();
    });
}

#[test]
fn lost_and_refused_cancellations_are_found() {
    finds("cancellations are lost", |run| {
        let order = run.rows.orders.get_mut(CANCELLED);
        order.expect("it is there").is_cancelled = false;
    });
    finds("cancellations were refused and happened", |run| {
        run.ledger.cancellations[0].outcome = Outcome::NotDone;
    });
}

#[test]
fn orders_without_their_events_are_found() {
    finds("do not have just their events", |run| {
        run.rows.events.remove(0);
    });
    finds("events are of no order", |run| {
        run.rows.orders.remove(CANCELLED);
    });
}

#[test]
fn transactions_that_did_not_end_as_told_are_found() {
    let without_last = |run: &mut Run| {
        run.rows.events.pop();
    };
    finds("committed and are not there", without_last);
    finds("rolled back and are there", |run| {
        run.ledger.transactions[0].outcome = Outcome::NotDone;
    });
    finds("of half a transaction", |run| {
        without_last(run);
        run.ledger.transactions[0].outcome = Outcome::Unknown;
    });
}

#[test]
fn what_kafka_lacks_or_should_not_have_is_found() {
    let found = finds("events are not in Kafka", |run| {
        run.records.pop();
    });
    assert_eq!(found.lost, 1);
    finds("records are of no event", |run| {
        run.record("rolled back", "order.created", "k");
    });
    finds("records are of another topic or key", |run| {
        "other".clone_into(&mut run.records[0].key);
    });
    finds("not where the outbox says", |run| {
        run.rows.events[0].place = Some((1, 0));
    });
}

#[test]
fn an_event_that_overtook_one_of_its_key_is_found_and_a_duplicate_is_none() {
    let found = finds("events were overtaken", |run| {
        let last = run.records.len() - 1;
        run.records.swap(last, last - 1);
    });
    assert_eq!(found.out_of_order, 1);
    let mut run = Run::without_a_fault();
    run.record("written-1", "order.created", "k");
    let found = run.check();
    assert_eq!((found.out_of_order, found.duplicates), (0, 1));
    assert_eq!(found.violations, [""; 0]);
}

#[test]
fn effects_that_happened_twice_or_not_at_all_are_found() {
    let found = finds("wrong sums", |run| {
        run.rows.sales.insert("p".to_owned(), (2, 4));
    });
    assert_eq!((found.twice, found.lost), (1, 0));
    let found = finds("wrong sums", |run| {
        run.rows.sales.remove("w");
    });
    assert_eq!((found.twice, found.lost), (0, 2));
    finds("wrong sums", |run| {
        run.rows.sales.insert("unknown".to_owned(), (0, 1));
    });
    finds("events have no effect", |run| {
        run.rows.inbox.remove("created-1");
    });
    finds("effects are of no event", |run| {
        run.rows.inbox.insert("unknown".to_owned());
    });
}

#[test]
fn dead_letters_and_wrong_answers_are_found() {
    finds("dead letters", |run| {
        run.rows.dead_letters.push("dead of k".to_owned());
    });
    finds("answers are wrong", |run| {
        run.ledger.wrong.push("500".to_owned());
    });
}
