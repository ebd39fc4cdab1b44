//! Decisions on dead letters, also while the owner works.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::Position;
use messaging::OutgoingRecord;
use order_consumer::Registry;
use order_consumer::partition::{PartitionConsumer, Step, StepError};
use order_consumer::redrive::{Decided, Decision, DecisionError, decide};
use service::CancellationToken;
use storage::inbox::dead_letters;
use storage::{Connection, Session};

use crate::handlers::{JOURNAL, Journal, Refusing};
use crate::support::{Fixture, GROUP, event_id, next_of_key, order};

const BAD: i64 = 13;

impl Fixture {
    fn position(&self, offset: i64) -> Position {
        Position {
            topic: self.topic.clone(),
            partition: 0,
            offset,
        }
    }

    async fn operator(&self) -> Connection {
        let session = Session::long_running("test");
        self.database.connect(&session).await.unwrap()
    }

    /// Event ids by product, in the order of their effects.
    async fn journal(&self) -> HashMap<String, Vec<String>> {
        let query = "select product_id, event_id::text from journal order by place";
        let mut journal: HashMap<String, Vec<String>> = HashMap::new();
        for row in self.sql.query(query, &[]).await.unwrap() {
            journal.entry(row.get(0)).or_default().push(row.get(1));
        }
        journal
    }
}

/// Journal and a handler that refuses while the switch is on.
fn registry(fixture: &Fixture) -> (Registry, Arc<AtomicBool>) {
    let refusing = Refusing::quantity(BAD);
    let on = Arc::clone(&refusing.on);
    (
        fixture.registry(vec![Box::new(refusing), Box::new(Journal)]),
        on,
    )
}

/// Steps on until Kafka has nothing more, whatever the handlers say.
async fn work(consumer: &mut PartitionConsumer) {
    loop {
        match consumer.step(&CancellationToken::new()).await {
            Ok(Step::Empty) => return,
            Ok(_) | Err(StepError::Handler { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_applied_in_order_or_given_up() {
    let fixture = Fixture::new().await;
    fixture.sql.batch_execute(JOURNAL).await.unwrap();
    let (_keeper, leases) = fixture.owner().await;
    let (registry, on) = registry(&fixture);
    let (mut consumer, _) = fixture.consumer_with(0, &leases, registry.clone());
    let first = order("P-1", BAD);
    let mut broken = next_of_key(&first, "P-1", 1);
    broken.value = Some(b"{".to_vec());
    let records = vec![
        first.clone(),
        next_of_key(&first, "P-1", 1),
        broken,
        next_of_key(&first, "P-1", 2),
    ];
    let ids: Vec<String> = records.iter().map(event_id).collect();
    fixture.produce(0, records).await;
    work(&mut consumer).await;
    let mut inbox = fixture.inbox(Session::long_running("test"));
    let mut decide = async |offset, decision, dry_run| {
        decide(
            &mut *inbox,
            GROUP,
            &fixture.position(offset),
            decision,
            &registry,
            dry_run,
        )
        .await
    };
    // Not before it can be applied.
    let stuck = decide(1, Decision::Redrive, false).await.unwrap();
    assert_eq!(stuck.stuck.unwrap().0.offset, 0);
    on.store(false, Ordering::SeqCst);
    let wrong = decide(3, Decision::Discard, false).await.unwrap_err();
    assert!(matches!(wrong, DecisionError::NotFirst { .. }), "{wrong}");
    // As far as it goes, and the one that waited is dead now, and announced.
    for dry_run in [true, false] {
        let decided = decide(3, Decision::Redrive, dry_run).await.unwrap();
        assert_eq!((decided.applied, decided.duplicates), (2, 0));
        assert_eq!(decided.stuck.unwrap().0.offset, 2);
    }
    assert_eq!(fixture.journal().await["P-1"], ids[..2]);
    let announced = "select string_agg(right(key, 4), ' ' order by id) from outbox_event";
    assert_eq!(fixture.text(announced).await, "/0/0 /0/2");
    // Given up: the next one goes.
    let decided = decide(2, Decision::Discard, false).await.unwrap();
    let expected = Decided {
        applied: 1,
        discarded: 1,
        ..Decided::default()
    };
    assert_eq!(decided, expected);
    assert_eq!(
        fixture.journal().await["P-1"],
        [&ids[0], &ids[1], &ids[3]].map(String::clone)
    );
    let again = decide(0, Decision::Redrive, false).await.unwrap_err();
    assert!(matches!(again, DecisionError::NothingHeld(_)), "{again}");

    // All of it delivered again: nothing happens, and nothing is held again.
    let back = "update inbox_offset set next_offset = 0, last_event_id = null";
    fixture.sql.batch_execute(back).await.unwrap();
    let (mut consumer, metrics) = fixture.consumer_with(0, &leases, registry.clone());
    fixture
        .produce(0, vec![next_of_key(&first, "P-1", 3)])
        .await;
    work(&mut consumer).await;
    assert_eq!((metrics.dead.get(), metrics.blocked.get()), (0, 0));
    assert_eq!(metrics.consumed.get(), 1);
    assert_eq!(fixture.journal().await["P-1"].len(), 4);
}

/// Keys whose first held record is not a dead one.
const ORPHANS: &str = "select count(*)::text from (
    select distinct on (key) cause from inbox_dead_letter where settled_at is null
    order by key, partition, \"offset\") first where cause = 'blocked'";

/// Keys whose events fail and recover at random, decided on all the while, must in the end have each
/// event once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p5_p3_redriving_while_new_events_of_the_keys_arrive() {
    const KEYS: usize = 3;
    const ROUNDS: usize = 120;
    let fixture = Arc::new(Fixture::new().await);
    fixture.sql.batch_execute(JOURNAL).await.unwrap();
    let (_keeper, leases) = fixture.owner().await;
    let (registry, on) = registry(&fixture);
    let (mut consumer, metrics) = fixture.consumer_with(0, &leases, registry.clone());
    let done = CancellationToken::new();

    let commands = tokio::spawn({
        let (fixture, done) = (Arc::clone(&fixture), done.clone());
        async move {
            let mut conn = fixture.operator().await;
            let mut inbox = fixture.inbox(Session::long_running("test"));
            let mut redriven = 0;
            loop {
                // At no moment does a key wait for nothing.
                assert_eq!(fixture.text(ORPHANS).await, "0");
                let last = done.is_cancelled();
                let held = dead_letters::unsettled_keys(&mut conn, GROUP, &fixture.topic)
                    .await
                    .unwrap();
                if last && held.is_empty() {
                    return redriven;
                }
                for position in held {
                    match decide(
                        &mut *inbox,
                        GROUP,
                        &position,
                        Decision::Redrive,
                        &registry,
                        false,
                    )
                    .await
                    {
                        Ok(decided) => redriven += decided.applied,
                        Err(DecisionError::NothingHeld(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    });

    let templates: Vec<OutgoingRecord> = (0..KEYS).map(|n| order(&format!("K-{n}"), 1)).collect();
    let mut expected: HashMap<String, Vec<String>> = HashMap::new();
    for round in 0..ROUNDS {
        on.store(round % 6 < 3, Ordering::SeqCst);
        let mut records = Vec::new();
        for (key, template) in templates.iter().enumerate() {
            let product = format!("K-{key}");
            let quantity = if (round + key) % 3 == 0 { BAD } else { 1 };
            let record = next_of_key(template, &product, quantity);
            expected.entry(product).or_default().push(event_id(&record));
            records.push(record);
        }
        fixture.produce(0, records).await;
        // What one produce request brought comes with one fetch.
        while !matches!(
            consumer.step(&CancellationToken::new()).await,
            Ok(Step::Applied(_))
        ) {}
    }
    on.store(false, Ordering::SeqCst);
    work(&mut consumer).await;
    done.cancel();
    let redriven = commands.await.unwrap();
    assert_eq!(fixture.journal().await, expected);
    assert!(
        redriven > 0 && metrics.blocked.get() > 0,
        "nothing was held"
    );
}
