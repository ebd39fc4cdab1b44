//! Transactions that stay open: late events, late ends of two-phase commits, old snapshots.

use std::time::Duration;

use local_stack::testing::{Spawned, eventually};
use messaging::PartitionReader;

use crate::load::Load;
use crate::metrics_and_readiness::metric;
use crate::process::BINARY;
use crate::soak::alone;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

/// Many events of a thousand keys that begin with `prefix`.
const MANY: &str = "\
insert into outbox_event (event_id, topic, key, event_type, payload)
select gen_random_uuid(), $1, $2::text || n % 1000, 'T', '{}'
from generate_series(1, $3::bigint) n";

impl Fixture {
    fn start(&self) -> Spawned {
        Spawned::start(BINARY, &["run"], self.variables())
    }

    /// Everything that was written is published; returns how many events that is.
    async fn until_all_are_published(&self) -> i64 {
        eventually("an empty outbox", PATIENCE * 4, async || {
            (self.number("select count(*) from outbox_pending").await == 0).then_some(())
        })
        .await;
        let published = self.number("select count(*) from outbox_published").await;
        assert_eq!(
            published,
            self.number("select count(*) from outbox_event").await
        );
        published
    }

    /// Records in the topic, by its offsets.
    async fn record_count(&self) -> i64 {
        let mut records = 0;
        for partition in 0..PARTITIONS {
            let mut reader = PartitionReader::new(self.cluster.clone(), &self.topic, partition);
            records += reader.latest().await.unwrap();
        }
        records
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_a_hundred_thousand_events_that_are_committed_last_arrive_in_order() {
    const MANY_EVENTS: i64 = 100_000;
    let fixture = Fixture::new().await;
    let _relay = fixture.start();
    let mut writer = fixture.database.connect().await;
    let open = writer.transaction().await.unwrap();
    open.execute(MANY, &[&fixture.topic, &"late", &MANY_EVENTS])
        .await
        .unwrap();
    // A whole run beside it, to its end, and then another one around its commit.
    let load = Load::of(&fixture, 40).await;
    fixture.until_more_are_published(4_000).await;
    let beside = load.end().await;
    assert_eq!(fixture.until_all_are_published().await, beside);
    assert_eq!(
        fixture
            .number("select count(*) from outbox_event where key like 'late%'")
            .await,
        0,
        "the transaction is open"
    );
    let load = Load::of(&fixture, 40).await;
    fixture.until_more_are_published(500).await;
    open.commit().await.unwrap();
    // Those that follow in the same keys have higher ids and wait behind them.
    writer
        .execute(MANY, &[&fixture.topic, &"late", &1_000_i64])
        .await
        .unwrap();
    let around = load.end().await;
    let published = fixture.until_all_are_published().await;
    assert_eq!(published, MANY_EVENTS + 1_000 + beside + around);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(copies, 0);
    assert_in_order(&by_key);
    for n in 0..1_000 {
        assert_eq!(by_key[&format!("late{n}")].len(), 101);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_a_two_phase_commit_that_ends_after_thousands_of_reads_arrives_in_order() {
    const READS: u64 = 2_000;
    let fixture = Fixture::new().await;
    let mut relay = fixture.start();
    fixture
        .sql
        .batch_execute(
            "set statement_timeout = '60s';
             create table aggregate (key text primary key);
             insert into aggregate values ('prepared')",
        )
        .await
        .unwrap();
    let topic = &fixture.topic;
    // A writer of a key locks its aggregate: that is what puts the events of a key in order.
    let write = format!(
        "begin; select from aggregate for update;
         insert into outbox_event (event_id, topic, key, event_type, payload)
         select gen_random_uuid(), '{topic}', 'prepared', 'T', '{{}}' from generate_series(1, 50)"
    );
    fixture
        .sql
        .batch_execute(&format!("{write}; prepare transaction '{topic}'"))
        .await
        .unwrap();
    let later = fixture.database.connect().await;
    later
        .batch_execute("set statement_timeout = '10min'")
        .await
        .unwrap();
    let load = Load::of(&fixture, 5).await;
    let (settles, ()) = tokio::join!(
        async {
            // Meanwhile: reads and settles past the prepared ids, by two relays, transaction ids
            // that are used up, and a vacuum that freezes.
            fixture.until_more_are_published(1_000).await;
            relay.terminate();
            assert_eq!(relay.exit_code(PATIENCE).await, Some(0));
            relay = fixture.start();
            fixture
                .sql
                .batch_execute(
                    "do $$ begin for n in 1..20000 loop perform txid_current(); commit; end loop; \
                     end $$",
                )
                .await
                .unwrap();
            // Of the outbox alone: whoever waits for the aggregate's lock keeps its page pinned.
            fixture
                .sql
                .batch_execute("vacuum freeze outbox_event, outbox_pending, outbox_published")
                .await
                .unwrap();
            let ops = relay.ops_address(PATIENCE).await;
            let count = async |what: &str| -> u64 {
                let series = format!("outbox_{what}_seconds_count ");
                metric(ops, &series).await.parse().unwrap()
            };
            let settles = eventually("many reads and settles", PATIENCE * 4, async || {
                let (reads, settles) = (count("read").await, count("settle").await);
                (reads >= READS && settles > 200).then_some(settles)
            })
            .await;
            let horizon = metric(ops, "outbox_snapshot_horizon_age_seconds ").await;
            println!("{settles} settles, horizon {horizon} s");
            assert_eq!(
                fixture
                    .number("select count(*) from outbox_event where key = 'prepared'")
                    .await,
                0
            );
            fixture
                .sql
                .batch_execute(&format!("commit prepared '{topic}'"))
                .await
                .unwrap();
            settles
        },
        // Waits for the lock of the one that is prepared, so its ids are higher.
        async {
            later
                .batch_execute(&format!("{write}; commit"))
                .await
                .unwrap();
        }
    );
    assert!(settles > 200);
    let written = load.end().await;
    assert_eq!(fixture.until_all_are_published().await, written + 100);
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(copies, 0);
    assert_in_order(&by_key);
    assert_eq!(by_key["prepared"].len(), 100);
}

/// Events pass while a snapshot is held that is older than all of them.
async fn pass_an_old_snapshot(events: i64) {
    const PARTS: i64 = 20;
    let fixture = Fixture::new().await;
    let mut relay = fixture.start();
    let ops = relay.ops_address(PATIENCE).await;
    let reader = fixture.database.connect().await;
    reader
        .batch_execute("begin isolation level repeatable read; select from outbox_event")
        .await
        .unwrap();
    let mut times = Vec::new();
    for part in 1..=PARTS {
        let started = std::time::Instant::now();
        fixture
            .sql
            .execute(MANY, &[&fixture.topic, &"k", &(events / PARTS)])
            .await
            .unwrap();
        fixture.until_all_are_published().await;
        times.push(started.elapsed());
        assert_eq!(
            fixture.record_count().await,
            events / PARTS * part,
            "no copy"
        );
    }
    println!("parts took {times:?}");
    fixture
        .sql
        .batch_execute("vacuum outbox_pending")
        .await
        .unwrap();
    let age = "select count(*) from pg_stat_activity
               where datname = current_database() and backend_xmin is not null
               and xact_start < now() - interval '1 s'";
    assert_eq!(fixture.number(age).await, 1, "the snapshot is still held");
    eventually("the horizon to show", PATIENCE, async || {
        let age = metric(ops, "outbox_snapshot_horizon_age_seconds ").await;
        let age: f64 = age.parse().unwrap();
        (age > 1.0).then_some(())
    })
    .await;
    // Walks over what cannot be vacuumed do not keep it from going either.
    let asked = std::time::Instant::now();
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0));
    let took = asked.elapsed();
    println!("it ended within {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let snapshot = reader
        .query_one("select count(*) from outbox_event", &[])
        .await;
    assert_eq!(snapshot.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p10_the_relay_goes_on_while_an_old_snapshot_is_held_and_says_so() {
    pass_an_old_snapshot(100_000).await;
}

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn p2_p10_a_million_events_pass_an_old_snapshot() {
    let _alone = alone().await;
    pass_an_old_snapshot(1_000_000).await;
}
