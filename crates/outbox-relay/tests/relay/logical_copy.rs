//! A logical copy of a database in use and the switch to it, step by step as docs/operations.md
//! tells it.

use local_stack::testing::{Spawned, eventually};
use messaging::partition_of;

use crate::load::Load;
use crate::own_postgres::OwnPostgres;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE, assert_in_order};

const TOO_LARGE: i32 = 1_200_000;

const PUBLISH: &str = "\
create publication outbox_copy for table
    orders, idempotency_key, product_sales, inbox, inbox_offset, inbox_dead_letter,
    outbox_event, outbox_pending, outbox_published, outbox_held, outbox_sample_hash";
/// Beforehand: both databases are in one cluster, where a subscription would wait for ever for the
/// slot that it makes itself.
const MAKE_SLOT: &str = "select pg_create_logical_replication_slot('outbox_copy', 'pgoutput')";
const SET_IDENTITY: &str = "\
select setval(pg_get_serial_sequence('outbox_event', 'id'),
              greatest(1, (select max(id) from outbox_event)))";

/// An event, its key and where it is.
type Whereabouts = (i64, String, String, Option<i32>, Option<i64>);

impl Fixture {
    /// Another database beside this one's, for the same topic, that follows this one.
    async fn copied(&self, own: &OwnPostgres) -> Self {
        let database = own.database().await;
        let copy = Self {
            topic: self.topic.clone(),
            cluster: self.cluster.clone(),
            sql: database.connect().await,
            database,
            brokers: self.brokers.clone(),
        };
        self.sql.batch_execute(PUBLISH).await.unwrap();
        self.sql.batch_execute(MAKE_SLOT).await.unwrap();
        copy.sql
            .batch_execute("truncate outbox_sample_hash")
            .await
            .unwrap();
        copy.sql
            .batch_execute(&format!(
                "create subscription outbox_copy connection '{}' publication outbox_copy
                 with (create_slot = false, slot_name = 'outbox_copy')",
                self.database.url()
            ))
            .await
            .unwrap();
        copy
    }

    /// Waits until the copy has all that was written here before now.
    async fn until_followed_by(&self, copy: &Self) {
        let now = "select pg_current_wal_lsn()::text";
        let now: String = self.sql.query_one(now, &[]).await.unwrap().get(0);
        let loaded = "select bool_and(srsubstate = 'r') from pg_subscription_rel";
        let followed = "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots
                        where slot_name = 'outbox_copy'";
        eventually("the copy to follow", PATIENCE, async || {
            let loaded = copy.sql.query_one(loaded, &[]).await.unwrap();
            let followed = self.sql.query_one(followed, &[&now]).await.unwrap();
            (loaded.get(0) && followed.get(0)).then_some(())
        })
        .await;
    }

    async fn whereabouts(&self) -> Vec<Whereabouts> {
        let rows = "select id, key, state, kafka_partition, kafka_offset from outbox order by id";
        let rows = self.sql.query(rows, &[]).await.unwrap();
        let columns = rows.iter();
        columns
            .map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4)))
            .collect()
    }

    async fn assert_whole(&self) {
        let database = [("DATABASE_URL", self.database.url().to_owned())];
        let mut status = Spawned::start(BINARY, &["status", "--verify"], database);
        assert_eq!(
            status.exit_code(PATIENCE).await,
            Some(0),
            "{}",
            status.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p9_a_logical_copy_publishes_what_was_pending_and_nothing_else() {
    // Ends with the test, and with it slots that would keep everybody's WAL.
    let own = OwnPostgres::start().await;
    let old = Fixture::in_database(own.database().await).await;
    old.write_sized(&[("bad", 1), ("bad", TOO_LARGE), ("bad", 1)])
        .await;
    let mut relay = Spawned::start(BINARY, &["run"], old.variables());
    let load = Load::start(&old).await;
    old.until("blocked", 1).await;
    old.until_more_are_published(500).await;
    let new = old.copied(&own).await;
    old.until_followed_by(&new).await;
    // Moves are followed as well as what was there.
    old.until_more_are_published(500).await;

    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
    eventually("some to wait", PATIENCE, async || {
        (old.count("pending").await >= 300).then_some(())
    })
    .await;
    old.write(&["bad"]).await;
    load.end().await;
    old.until_followed_by(&new).await;
    new.sql
        .batch_execute("drop subscription outbox_copy")
        .await
        .unwrap();
    let before = new.whereabouts().await;
    assert_eq!(before, old.whereabouts().await);
    new.assert_whole().await;

    // Its next event would get the id of the first one.
    let mut relay = Spawned::start(BINARY, &["run"], new.variables());
    assert_eq!(relay.exit_code(PATIENCE).await, Some(1));
    let reason = "the identity of outbox_event is 0, below its highest id";
    assert!(relay.log().contains(reason), "{}", relay.log());
    assert_eq!(new.whereabouts().await, before);

    new.sql.batch_execute(SET_IDENTITY).await.unwrap();
    let mut relay = Spawned::start(BINARY, &["run"], new.variables());
    new.write(&["bad", "k1"]).await;
    new.until("pending", 0).await;
    let after = new.whereabouts().await;
    assert_eq!(after.len(), before.len() + 2);
    for (before, after) in before.iter().zip(&after) {
        let (id, key, state, ..) = before;
        if state == "pending" {
            let (state, partition) = match key.as_str() {
                "bad" => ("blocked", None),
                key => ("published", Some(partition_of(key.as_bytes(), PARTITIONS))),
            };
            assert_eq!(
                (&after.0, after.2.as_str(), after.3),
                (id, state, partition)
            );
        } else {
            assert_eq!(before, after);
        }
    }
    // Nothing that is held either: each record is of an event that is recorded as published.
    let (by_key, copies) = new.published_by_key().await;
    assert_eq!(copies, 0);
    assert_in_order(&by_key);
    assert_eq!(by_key["bad"], [1]);
    new.assert_whole().await;
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
}
