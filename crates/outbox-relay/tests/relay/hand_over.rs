//! How soon others go on with the slots of a relay that leaves, that makes room, and that is killed.

use std::time::{Duration, Instant};

use local_stack::testing::{Spawned, eventually};

use crate::load::Load;
use crate::sharing::MOST_IN_FLIGHT;
use crate::support::{Fixture, PATIENCE};

/// What a hand-over in order may take.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Writes down when slots change hands, by the database's clock, and when members come.
const LOG_LEASES: &str = "\
create table lease_log (unit int, owner uuid, at timestamptz);
create function log_lease() returns trigger language plpgsql as $$
begin
    insert into lease_log values (new.unit, new.owner, clock_timestamp());
    return null;
end $$;
create trigger log after update of owner on lease for each row
when (new.owner is distinct from old.owner) execute function log_lease();
create function log_member() returns trigger language plpgsql as $$
begin
    insert into lease_log values (null, new.member_id, clock_timestamp());
    return null;
end $$;
create trigger log after insert on lease_member for each row execute function log_member();";

impl Fixture {
    async fn now(&self) -> String {
        let now = "select clock_timestamp()::text";
        self.sql.query_one(now, &[]).await.unwrap().get(0)
    }

    /// Time from `since` until the last slot since then found its owner.
    async fn hand_over_after(&self, since: &str) -> Duration {
        let took = "select extract(epoch from max(at) - $1::text::timestamptz)::float8
                    from lease_log
                    where owner is not null and unit is not null and at > $1::text::timestamptz";
        let row = self.sql.query_one(took, &[&since]).await.unwrap();
        Duration::from_secs_f64(row.get(0))
    }

    /// The longest that an event written since then took to be recorded as published.
    async fn slowest_event_since(&self, since: &str) -> Duration {
        let slowest = "select max(extract(epoch from p.processed_at - e.created_at))::float8
                       from outbox_event e join outbox_published p using (id)
                       where e.created_at > $1::text::timestamptz - interval '50 ms'";
        let row = self.sql.query_one(slowest, &[&since]).await.unwrap();
        Duration::from_secs_f64(row.get(0))
    }
}

/// The quickest tells what a hand-over takes where the machine has time for it. A wait for a beat,
/// of which the leases here have one in ten seconds, shows at once.
fn is_at_once(what: &str, times: &[Duration]) -> bool {
    let soon = |time: &Duration| *time < Duration::from_secs(3);
    assert!(times.iter().all(soon), "{what} took {times:?}");
    times.iter().any(|time| *time < AT_ONCE)
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_leaving_and_joining_hand_slots_over_at_once_and_double_nothing() {
    let fixture = Fixture::new().await;
    fixture.sql.batch_execute(LOG_LEASES).await.unwrap();
    // Leases that last long: nobody may need one to run out.
    let mut relays: Vec<Spawned> = (0..2).map(|_| fixture.start_relay("30s")).collect();
    fixture.until_shared_by(2).await;
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(100).await;
    let (mut leaving, mut joining) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let quick = is_at_once("leaving", &leaving) & is_at_once("joining", &joining);
        if round > 3 && quick {
            break;
        }
        let mut relay = relays.remove(0);
        let since = fixture.now().await;
        relay.terminate();
        assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
        fixture.until_shared_by(1).await;
        leaving.push(fixture.hand_over_after(&since).await);
        fixture.until_more_are_published(50).await;

        let came = fixture.now().await;
        relays.push(fixture.start_relay("30s"));
        fixture.until_shared_by(2).await;
        // It comes when it says so; before that it had to be started.
        let since = "select at::text from lease_log
                     where unit is null and at > $1::text::timestamptz";
        let since = fixture.sql.query_one(since, &[&came]).await.unwrap();
        joining.push(fixture.hand_over_after(since.get(0)).await);
        fixture.until_more_are_published(50).await;
    }
    println!("leaving took {leaving:?}, joining {joining:?}");
    assert!(is_at_once("leaving", &leaving), "{leaving:?}");
    assert!(is_at_once("joining", &joining), "{joining:?}");
    assert_eq!(fixture.assert_all_arrive_in_order(load).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p4_a_killed_relays_slots_go_on_within_its_leases_time_and_a_second() {
    let ttl = Duration::from_secs(3);
    let fixture = Fixture::new().await;
    fixture.sql.batch_execute(LOG_LEASES).await.unwrap();
    let (killed, _survivor) = (fixture.start_relay("3s"), fixture.start_relay("3s"));
    fixture.until_shared_by(2).await;
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(100).await;
    let since = fixture.now().await;
    killed.kill();
    let owners = "select count(distinct owner) from lease";
    eventually("one owner", PATIENCE, async || {
        let owners = fixture.number(owners).await;
        (owners == 1).then_some(())
    })
    .await;
    let took = fixture.hand_over_after(&since).await;
    let copies = fixture.assert_all_arrive_in_order(load).await;
    let slowest = fixture.slowest_event_since(&since).await;
    println!("taken over after {took:?}, slowest event {slowest:?}, {copies} copies");
    assert!(took < ttl + Duration::from_secs(1), "{took:?}");
    assert!(slowest < ttl + Duration::from_secs(2), "{slowest:?}");
    assert!(copies <= MOST_IN_FLIGHT, "{copies}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_who_leaves_waits_for_no_read_that_hangs() {
    let fixture = Fixture::new().await;
    let mut relay = fixture.start_relay("30s");
    fixture.until_shared_by(1).await;
    let other = fixture.database.connect().await;
    other
        .batch_execute("begin; lock table outbox_held in access exclusive mode")
        .await
        .unwrap();
    // The pipeline's read, and the look of whoever observes it.
    let hanging = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
    eventually("reads to hang", PATIENCE, async || {
        let hanging = fixture.number(hanging).await;
        (hanging > 1).then_some(())
    })
    .await;
    let asked = Instant::now();
    relay.terminate();
    assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let owned = "select count(*) from lease where owner is not null";
    let owned = fixture.number(owned).await;
    assert_eq!(owned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_slot_changes_hands_only_when_nothing_of_it_is_in_flight() {
    let fixture = Fixture::new().await;
    // So slow that whoever took a slot early would read what is sent and not recorded yet.
    fixture
        .sql
        .batch_execute(
            "create function slow() returns trigger language plpgsql as $$
             begin perform pg_sleep(0.4); return null; end $$;
             create trigger slow before insert on outbox_published
             for each statement execute function slow()",
        )
        .await
        .unwrap();
    let _first = fixture.start_relay("30s");
    fixture.until_shared_by(1).await;
    let load = Load::start(&fixture).await;
    fixture.until_more_are_published(100).await;
    let second = fixture.start_relay("30s");
    fixture.until_shared_by(2).await;
    fixture.until_more_are_published(100).await;
    second.terminate();
    fixture.until_shared_by(1).await;
    fixture
        .sql
        .batch_execute("drop function slow cascade")
        .await
        .unwrap();
    assert_eq!(fixture.assert_all_arrive_in_order(load).await, 0);
}
