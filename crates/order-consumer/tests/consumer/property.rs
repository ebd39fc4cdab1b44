//! Whatever comes, in whatever batches: in the end each good event was applied once, in the order of
//! its key.

use std::collections::{BTreeMap, HashSet};

use domain::{EventId, Order, Position, Quantity};
use messaging::IncomingRecord;
use order_consumer::Registry;
use order_consumer::apply::decode::{Decoded, decode};
use order_consumer::apply::transaction::{Attempt, Batch, Fence, Outcome, apply};
use order_consumer::ports::{Inbox, InboxFactory};
use order_consumer::redrive::{Decision, decide};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use storage::inbox::dead_letters;
use storage::inbox::{self, Stream};
use storage::lease::Leases;
use storage::{Connection, Session};
use time::OffsetDateTime;

use crate::handlers::{JOURNAL, Journal, Refusing};
use crate::support::Fixture;

const CASES: usize = 40;
const BAD: i64 = 13;

/// One record of a stream.
#[derive(Debug, Clone)]
enum Arrival {
    Good,
    /// The effect of it fails.
    Refused,
    Broken,
    /// One that came before, chosen by this number.
    Copy(prop::sample::Index),
}

/// Records by key, and where batches end.
fn streams() -> impl Strategy<Value = Vec<(usize, Arrival, bool)>> {
    let arrival = prop_oneof![
        6 => Just(Arrival::Good),
        1 => Just(Arrival::Refused),
        1 => Just(Arrival::Broken),
        3 => any::<prop::sample::Index>().prop_map(Arrival::Copy),
    ];
    prop::collection::vec((0..4_usize, arrival, prop::bool::weighted(0.2)), 1..60)
}

/// The record of an event of this key.
fn record(key: usize, id: EventId, quantity: i64, broken: bool) -> IncomingRecord {
    let product = format!("K-{key}").parse().unwrap();
    let quantity = Quantity::try_from(quantity).unwrap();
    let event = Order::place(product, quantity, OffsetDateTime::now_utc()).created_event();
    let headers = [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id.to_string()),
        ("ce_type", event.event_type),
        ("ce_schemaversion", event.schema_version.to_string()),
    ];
    IncomingRecord {
        offset: 0,
        timestamp: OffsetDateTime::now_utc(),
        key: Some(format!("key {key}").into_bytes()),
        value: Some(if broken {
            b"{".to_vec()
        } else {
            event.content.unwrap().as_bytes().to_vec()
        }),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.into_bytes()))
            .into(),
        odd_headers: Vec::new(),
        omitted_bytes: None,
    }
}

struct Run<'a> {
    fixture: &'a Fixture,
    conn: Connection,
    inbox: Box<dyn Inbox>,
    leases: &'a Leases,
    stream: Stream,
    registry: Registry,
}

impl Run<'_> {
    async fn apply(&mut self, records: &[Decoded], from: i64, attempt: Attempt) -> Option<Outcome> {
        let fence = Fence {
            owner: self.leases.member(),
            epoch: self.leases.epoch(0).expect("owned"),
            expected_offset: from,
            topic_id: None,
        };
        let batch = Batch {
            records,
            next_offset: from + i64::try_from(records.len()).unwrap(),
        };
        apply(&mut *self.inbox, &self.stream, fence, &batch, attempt)
            .await
            .ok()
    }

    /// As the consumer does: once hopefully, then for good; and then delivered again.
    async fn consume(&mut self, records: Vec<IncomingRecord>, from: i64) -> i64 {
        let records: Vec<Decoded> = (from..)
            .zip(records)
            .map(|(offset, record)| {
                let record = IncomingRecord { offset, ..record };
                decode(&self.registry, &self.stream.topic, record)
            })
            .collect();
        let mut outcome = self.apply(&records, from, Attempt::WholeBatch).await;
        if outcome.is_none() {
            let last = Attempt::Isolate { attempts: 4 };
            outcome = self.apply(&records, from, last).await;
        }
        assert!(matches!(outcome, Some(Outcome::Applied(_))), "{outcome:?}");
        let again = self.apply(&records, from, Attempt::WholeBatch).await;
        assert_eq!(again, Some(Outcome::Fenced));
        from + i64::try_from(records.len()).unwrap()
    }

    /// Gives up whatever is dead, so that what waits behind it goes.
    async fn discard_all(&mut self) {
        loop {
            let group = &self.stream.group;
            let held: Vec<Position> =
                dead_letters::unsettled_keys(&mut self.conn, group, &self.stream.topic)
                    .await
                    .unwrap();
            if held.is_empty() {
                return;
            }
            for position in held {
                decide(
                    &mut *self.inbox,
                    group,
                    &position,
                    Decision::Discard,
                    &self.registry,
                    false,
                )
                .await
                .unwrap();
            }
        }
    }
}

async fn check(run: &mut Run<'_>, arrivals: Vec<(usize, Arrival, bool)>) {
    let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut came: Vec<(usize, EventId, i64, bool)> = Vec::new();
    let mut seen = HashSet::new();
    let (mut batch, mut next_offset) = (Vec::new(), 0);
    inbox::begin_at(&mut run.conn, &run.stream, 0, None)
        .await
        .unwrap();
    for (key, arrival, ends) in arrivals {
        let new = EventId::generate();
        let this = match arrival {
            Arrival::Good => (key, new, 1, false),
            Arrival::Refused => (key, new, BAD, false),
            Arrival::Broken => (key, new, 1, true),
            Arrival::Copy(which) if !came.is_empty() => *which.get(&came),
            Arrival::Copy(_) => continue,
        };
        came.push(this);
        let (key, id, quantity, broken) = this;
        if quantity != BAD && !broken && seen.insert(id) {
            expected.entry(key).or_default().push(id.to_string());
        }
        batch.push(record(key, id, quantity, broken));
        if ends {
            next_offset = run.consume(std::mem::take(&mut batch), next_offset).await;
        }
    }
    if !batch.is_empty() {
        run.consume(batch, next_offset).await;
    }
    run.discard_all().await;
    let mut applied: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let query = "select product_id, event_id::text from journal order by place";
    for row in run.fixture.sql.query(query, &[]).await.unwrap() {
        let key = row.get::<_, &str>(0)[2..].parse().unwrap();
        applied.entry(key).or_default().push(row.get(1));
    }
    assert_eq!(applied, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_p8_each_good_event_once_in_the_order_of_its_key() {
    let fixture = Fixture::new().await;
    fixture.sql.batch_execute(JOURNAL).await.unwrap();
    let mut runner = TestRunner::default();
    for case in 0..CASES {
        let arrivals = streams().new_tree(&mut runner).unwrap().current();
        let description = format!("{arrivals:?}");
        let group = format!("group {case}");
        let session = Session::long_running("test");
        let scope = Stream::lease_scope(&group, &fixture.topic);
        let ttl = std::time::Duration::from_mins(1);
        let (mut keeper, leases) = fixture.inboxes().leases(&scope, ttl, 1);
        keeper.beat().await.unwrap();
        let mut run = Run {
            fixture: &fixture,
            conn: fixture.database.connect(&session).await.unwrap(),
            inbox: fixture.inbox(session),
            leases: &leases,
            stream: Stream {
                group,
                topic: fixture.topic.clone(),
                partition: 0,
            },
            registry: fixture.registry(vec![Box::new(Journal), Box::new(Refusing::quantity(BAD))]),
        };
        println!("{description}");
        check(&mut run, arrivals).await;
        fixture.sql.batch_execute("truncate journal").await.unwrap();
    }
}
