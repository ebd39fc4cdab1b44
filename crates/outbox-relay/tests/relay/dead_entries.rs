//! Entries of the queue that are gone and cannot be vacuumed, since an old snapshot may still see
//! them: reads walk over them.

use std::time::Instant;

use local_stack::testing::{Fault, KafkaProxy, Spawned};
use tokio_postgres::Client;

use crate::own_postgres::OwnPostgres;
use crate::process::BINARY;
use crate::soak::alone;
use crate::support::Fixture;

/// Entries written per statement.
const AT_ONCE: i32 = 1_000_000;

impl Fixture {
    /// Leaves this many dead entries before all others. They stay until the returned connection
    /// ends, which holds the snapshot.
    async fn leave_dead_entries(&self, entries: i32) -> Client {
        let reader = self.database.connect().await;
        let snapshot = "begin isolation level repeatable read; select from outbox_event";
        reader.batch_execute(snapshot).await.unwrap();
        // Nothing could be vacuumed. That it is tried over and over would only slow the test down.
        let settings = "alter table outbox_pending set (autovacuum_enabled = off)";
        self.sql.batch_execute(settings).await.unwrap();
        let begun = Instant::now();
        let insert = "insert into outbox_pending (slot, id, bytes)
                      select n & 31, -n, 100 from generate_series($1::int, $2::int) n";
        for first in (1..=entries).step_by(usize::try_from(AT_ONCE).unwrap()) {
            let last = entries.min(first + AT_ONCE - 1);
            self.sql.execute(insert, &[&first, &last]).await.unwrap();
        }
        let delete = "delete from outbox_pending where id < 0";
        self.sql.execute(delete, &[]).await.unwrap();
        println!("{entries} dead entries after {:?}", begun.elapsed());
        // The walks of a test go to the events themselves.
        let plans = "set enable_seqscan = off; set enable_hashjoin = off;
                     set enable_mergejoin = off; set enable_bitmapscan = off";
        self.sql.batch_execute(plans).await.unwrap();
        reader
    }

    fn relay_with_ttl(&self, ttl: &str) -> Spawned {
        let mut variables = self.variables();
        variables.retain(|(name, _)| *name != "LEASE_TTL");
        variables.push(("LEASE_TTL", ttl.to_owned()));
        Spawned::start(BINARY, &["run"], variables)
    }

    async fn write_over_all_slots(&self, events: i32) {
        let keys: Vec<String> = (0..1_000).map(|n| format!("k{n}")).collect();
        self.write_over(&keys, events, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_dead_entries_behind_an_old_snapshot_slow_the_relay_down_and_do_not_stop_it() {
    let fixture = Fixture::new().await;
    let _reader = fixture.leave_dead_entries(4_000_000).await;
    fixture.write_over_all_slots(1_000).await;
    let relay = fixture.relay_with_ttl("1s");
    fixture.assert_progress(&[&relay], &[]).await;
}

/// What an outage leaves of events that have gone back.
#[tokio::test(flavor = "multi_thread")]
async fn p11_dead_entries_of_held_events_do_not_keep_others_from_coming_back() {
    let fixture = Fixture::new().await;
    let reader = fixture.database.connect().await;
    let snapshot = "begin isolation level repeatable read; select from outbox_event";
    reader.batch_execute(snapshot).await.unwrap();
    fixture
        .sql
        .batch_execute(
            "alter table outbox_held set (autovacuum_enabled = off);
             insert into outbox_held (id, slot, topic, key, cause, partition_count, partition, bytes)
             select -n, n & 3, 'before', 'k', 'unavailable', 6, 0, 100
             from generate_series(1, 2000000) n;
             delete from outbox_held where id < 0",
        )
        .await
        .unwrap();
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.set(&fixture.topic, Some(Fault::Refuse));
    fixture.write_over_all_slots(300).await;
    let mut variables = fixture.variables();
    variables.retain(|(name, _)| *name != "LEASE_TTL");
    variables.push(("LEASE_TTL", "1s".to_owned()));
    variables.push(("KAFKA_BROKERS", proxy.brokers()));
    let relay = Spawned::start(BINARY, &["run"], variables);
    fixture.until_unavailable(300).await;
    proxy.set(&fixture.topic, None);
    fixture.assert_progress(&[&relay], &[]).await;
}

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "twenty million rows"]
async fn p11_twenty_million_dead_entries_leave_a_thousand_events_a_second() {
    const EVENTS: i32 = 60_000;
    let _alone = alone().await;
    let postgres = OwnPostgres::start().await;
    let database = postgres.database().await;
    let fixture = Fixture::in_database(database).await;
    let _reader = fixture.leave_dead_entries(20_000_000).await;
    let relay = fixture.relay_with_ttl("3s");
    // It has found out how much it can read at once.
    fixture.write_over_all_slots(1_000).await;
    fixture.assert_progress(&[&relay], &[]).await;
    fixture.write_over_all_slots(EVENTS).await;
    let begun = Instant::now();
    fixture.assert_progress(&[&relay], &[]).await;
    let rate = f64::from(EVENTS) / begun.elapsed().as_secs_f64();
    println!("{rate:.0} events/s");
    assert!(rate >= 1_000.0, "{rate:.0} events/s\n{}", relay.log());
}
