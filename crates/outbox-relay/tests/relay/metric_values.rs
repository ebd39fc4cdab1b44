//! The numbers are right when there is something to count: times, slots, and what woke the relay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use local_stack::testing::{Spawned, eventually};
use storage::outbox::statements::READ_PENDING;

use crate::kafka_outage::metric;
use crate::metrics_and_readiness;
use crate::own_kafka::OwnKafka;
use crate::process::BINARY;
use crate::support::{Fixture, PARTITIONS, PATIENCE};

/// Each kind of work takes at least this long once.
const DELAY: Duration = Duration::from_millis(500);

/// What a statement that fills a table from now on takes in addition.
fn slow(table: &str) -> String {
    let delay = DELAY.as_secs_f64();
    format!(
        "create or replace function slow() returns trigger language plpgsql as $$
         begin perform pg_sleep({delay}); return null; end $$;
         create trigger slow before insert on {table} for each statement execute function slow();"
    )
}

const QUICK_AGAIN: &str = "drop function slow cascade";

/// How often something was timed, and the seconds of all.
#[derive(Debug, Clone, Copy)]
struct Timed {
    count: usize,
    seconds: f64,
}

async fn timed(ops: SocketAddr, what: &str) -> Timed {
    let seconds = metrics_and_readiness::metric(ops, &format!("outbox_{what}_seconds_sum ")).await;
    Timed {
        count: metric(ops, &format!("outbox_{what}_seconds_count ")).await,
        seconds: seconds.parse().unwrap(),
    }
}

/// Waits until a `DELAY` more was timed than `before`.
async fn until_delay_is_counted(ops: SocketAddr, what: &str, before: Timed) {
    eventually(&format!("a slow {what}"), PATIENCE, async || {
        let now = timed(ops, what).await;
        let slower = now.seconds >= before.seconds + DELAY.as_secs_f64();
        (slower && now.count > before.count).then_some(())
    })
    .await;
}

async fn until_in_flight(ops: SocketAddr, events: usize) {
    eventually(&format!("{events} in flight"), PATIENCE, async || {
        (metric(ops, "outbox_in_flight ").await == events).then_some(())
    })
    .await;
}

impl Fixture {
    async fn slow_down(&self, table: &str) {
        self.sql.batch_execute(&slow(table)).await.unwrap();
    }

    /// Waits until the relay's read of pending events has hung for a `DELAY` on a lock.
    async fn until_a_read_hangs(&self) {
        let hanging = "select count(*) from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock'
                       and starts_with(query, left($1, 100))
                       and clock_timestamp() - query_start > make_interval(secs => $2)";
        eventually("a read to hang", PATIENCE, async || {
            let delay = DELAY.as_secs_f64();
            let hanging = self
                .sql
                .query_one(hanging, &[&READ_PENDING, &delay])
                .await
                .unwrap();
            (hanging.get::<_, i64>(0) > 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_requests_settles_and_holds_are_timed_each_by_its_own_histogram() {
    let kafka = OwnKafka::start().await;
    let mut fixture = Fixture::on(&kafka.brokers).await;
    let began = Instant::now();
    // Timeouts of a session are two thirds of a lease: nothing here may run into one.
    let relay = fixture.start_relay("30s");
    let ops = relay.ops_address(PATIENCE).await;
    fixture.write(&["a"]).await;
    fixture.until_published(1).await;
    assert_eq!(timed(ops, "hold").await.count, 0);

    let before = timed(ops, "read").await;
    let other = fixture.database.connect().await;
    other
        .batch_execute("begin; lock table outbox_held in access exclusive mode")
        .await
        .unwrap();
    fixture.until_a_read_hangs().await;
    other.batch_execute("commit").await.unwrap();
    until_delay_is_counted(ops, "read", before).await;

    let before = timed(ops, "settle").await;
    fixture.slow_down("outbox_published").await;
    fixture.write(&["a"]).await;
    until_delay_is_counted(ops, "settle", before).await;
    fixture.sql.batch_execute(QUICK_AGAIN).await.unwrap();

    until_in_flight(ops, 0).await;
    let before = timed(ops, "produce").await;
    kafka.freeze().await;
    fixture.write(&["a"]).await;
    until_in_flight(ops, 1).await;
    // The time is the point. A bit more, since the request follows what the gauge says.
    tokio::time::sleep(DELAY * 2).await;
    kafka.thaw().await;
    until_delay_is_counted(ops, "produce", before).await;
    fixture.until_published(3).await;

    let before = timed(ops, "hold").await;
    fixture.slow_down("outbox_held").await;
    fixture.topic = "no such: topic!".to_owned();
    fixture.write(&["a"]).await;
    until_delay_is_counted(ops, "hold", before).await;

    // None can have taken longer than there was time, whatever unit it is counted in.
    for (what, at_once) in [
        ("read", 1),
        ("settle", 1),
        ("hold", 1),
        ("produce", PARTITIONS),
    ] {
        let timed = timed(ops, what).await;
        let most = began.elapsed().as_secs_f64() * f64::from(at_once);
        assert!(timed.seconds <= most, "{what}: {timed:?} in {most} s");
    }
    // One event at a time, so that each was alone in its request and in its statement.
    // A topic that was just made may refuse at first.
    let requests = 3 + metric(ops, "outbox_retried_total").await;
    for (what, count) in [("produce", requests), ("settle", 3), ("hold", 1)] {
        assert_eq!(timed(ops, what).await.count, count, "{what}");
    }
}

async fn until_it_owns(ops: SocketAddr, slots: usize) {
    eventually(&format!("{slots} slots"), PATIENCE, async || {
        (metric(ops, "outbox_slots_owned ").await == slots).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_it_owns_are_counted_when_they_come_and_go_and_those_lost_when_they_are() {
    const LOST: &str = "outbox_lease_losses_total";
    let fixture = Fixture::new().await;
    let first = fixture.start_relay("5s");
    let ops = first.ops_address(PATIENCE).await;
    until_it_owns(ops, 32).await;

    let mut second = fixture.start_relay("5s");
    let other_ops = second.ops_address(PATIENCE).await;
    until_it_owns(ops, 16).await;
    until_it_owns(other_ops, 16).await;
    second.terminate();
    assert_eq!(second.exit_code(PATIENCE).await, Some(0));
    until_it_owns(ops, 32).await;

    // So many others, who came before, that nothing is left to it.
    fixture
        .sql
        .batch_execute(
            "insert into lease_member (scope, member_id, ttl, expires_at)
             select 'outbox-relay', lpad(n::text, 32, '0')::uuid, '1 hour',
                    clock_timestamp() + interval '1 hour'
             from generate_series(1, 32) n",
        )
        .await
        .unwrap();
    until_it_owns(ops, 0).await;
    assert_eq!(
        metric(ops, LOST).await,
        0,
        "what is handed over is not lost"
    );
    fixture
        .sql
        .batch_execute("delete from lease_member where ttl = '1 hour'")
        .await
        .unwrap();
    until_it_owns(ops, 32).await;

    let other = fixture.database.connect().await;
    other
        .batch_execute("begin; lock table lease_member in access exclusive mode")
        .await
        .unwrap();
    until_it_owns(ops, 0).await;
    assert_eq!(metric(ops, LOST).await, 32);
    other.batch_execute("commit").await.unwrap();
    until_it_owns(ops, 32).await;
    assert_eq!(metric(ops, LOST).await, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_starts_a_read_is_counted_by_its_cause() {
    let woken = |cause| format!("outbox_wake_ups_total{{cause=\"{cause}\"}}");
    let [notification, poll, settled, lease] =
        ["notification", "poll", "settled", "lease"].map(woken);
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    until_it_owns(ops, 32).await;
    // Whoever begins to listen looks at once, as if woken.
    eventually("it to listen", PATIENCE, async || {
        (metric(ops, &notification).await == 1).then_some(())
    })
    .await;

    let before = metric(ops, &poll).await;
    eventually("it to look by itself", PATIENCE, async || {
        (metric(ops, &poll).await >= before + 3).then_some(())
    })
    .await;
    assert_eq!(metric(ops, &settled).await, 0);
    // What is done just when it looks anyway needs to wake nobody.
    eventually("what is done to wake it", PATIENCE, async || {
        fixture.write(&["a"]).await;
        (metric(ops, &settled).await > 0).then_some(())
    })
    .await;
    assert_eq!(metric(ops, &notification).await, 1);
    fixture.sql.batch_execute("notify outbox").await.unwrap();
    eventually("it to be woken", PATIENCE, async || {
        (metric(ops, &notification).await == 2).then_some(())
    })
    .await;
    let before = metric(ops, &lease).await;
    let _other = Spawned::start(BINARY, &["run"], fixture.variables());
    eventually("other leases to wake it", PATIENCE, async || {
        (metric(ops, &lease).await > before).then_some(())
    })
    .await;
}
