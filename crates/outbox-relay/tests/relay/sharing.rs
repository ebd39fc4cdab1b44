//! Relays share the slots while they come and go under load, in order and by crashes.

use std::time::Duration;

use local_stack::testing::{Spawned, eventually};
use outbox_relay::Step;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::kafka_outage::metric;
use crate::load::Load;
use crate::own_postgres::OwnPostgres;
use crate::process::BINARY;
use crate::soak::alone;
use crate::support::{Fixture, PATIENCE};

/// What one relay of [`Fixture::start_relay`] can have in flight: eight events of each of 32 slots.
pub(crate) const MOST_IN_FLIGHT: usize = 8 * 32;

impl Fixture {
    /// The real executable, with batches so small that little can be in flight.
    pub(crate) fn start_relay(&self, lease_ttl: &str) -> Spawned {
        Spawned::start(BINARY, &["run"], self.small_batches(lease_ttl))
    }

    pub(crate) fn small_batches(&self, lease_ttl: &str) -> Vec<(&'static str, String)> {
        let mut variables = self.variables();
        variables.retain(|(name, _)| *name != "LEASE_TTL");
        variables.push(("LEASE_TTL", lease_ttl.to_owned()));
        variables.push(("RELAY__BATCH_EVENTS_PER_SLOT", "8".to_owned()));
        variables
    }

    /// How many slots each live owner has, ascending.
    pub(crate) async fn shares(&self) -> Vec<i64> {
        let shares = "select count(*) from lease l join lease_member m on m.member_id = l.owner
                      where m.expires_at > clock_timestamp() group by l.owner order by 1";
        let rows = self.sql.query(shares, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until this many relays own all slots in shares that differ by one at most.
    pub(crate) async fn until_shared_by(&self, relays: usize) {
        let what = format!("{relays} relays to share the slots");
        eventually(&what, PATIENCE, async || {
            let shares = self.shares().await;
            let fair = shares.len() == relays
                && shares.iter().sum::<i64>() == 32
                && shares[relays - 1] - shares[0] <= 1;
            fair.then_some(())
        })
        .await;
    }

    /// Each process publishes, and tells as many slots its own as the database does.
    async fn assert_all_work(&self, relays: &[Spawned]) {
        for relay in relays {
            let ops = relay.ops_address(PATIENCE).await;
            let before = metric(ops, "outbox_published_total").await;
            eventually("each relay to publish", PATIENCE, async || {
                (metric(ops, "outbox_published_total").await > before).then_some(())
            })
            .await;
        }
        eventually("the relays to own their shares", PATIENCE, async || {
            let mut owned = Vec::new();
            for relay in relays {
                let ops = relay.ops_address(PATIENCE).await;
                owned.push(metric(ops, "outbox_slots_owned ").await);
            }
            owned.sort_unstable();
            let fair = owned[owned.len() - 1] - owned[0] <= 1;
            (fair && owned.iter().sum::<usize>() == 32).then_some(())
        })
        .await;
    }
}

/// What happens to the relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Come,
    Leave,
    Crash,
}

/// Makes these changes in random order at random moments, keeping one to three relays, and returns
/// how many records are copies.
async fn copies_after(changes: &[Change], lease_ttl: &str) -> usize {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fixture = Fixture::new().await;
    let mut relays = vec![
        fixture.start_relay(lease_ttl),
        fixture.start_relay(lease_ttl),
    ];
    fixture.until_shared_by(2).await;
    let load = Load::of(&fixture, 40).await;
    let mut changes = changes.to_vec();
    changes.shuffle(&mut random);
    while !changes.is_empty() {
        let possible = |change: &Change| match change {
            Change::Come => relays.len() < 3,
            Change::Leave | Change::Crash => relays.len() > 1,
        };
        let next = changes.iter().position(possible);
        let change = next.map_or(Change::Come, |next| changes.remove(next));
        match change {
            Change::Come => relays.push(fixture.start_relay(lease_ttl)),
            Change::Leave | Change::Crash => {
                let mut relay = relays.remove(random.random_range(0..relays.len()));
                if change == Change::Leave {
                    // Before it has started, a signal ends it as it does any process.
                    relay.ops_address(PATIENCE).await;
                    relay.terminate();
                    assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
                } else {
                    relay.kill();
                }
            }
        }
        // At any moment: of a request, of a settle, of a hand-over.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..900))).await;
    }
    let copies = fixture.assert_all_arrive_in_order(load).await;
    fixture.until_shared_by(relays.len()).await;
    copies
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_p4_relays_that_come_and_leave_in_order_double_nothing() {
    use Change::{Come, Leave};
    let copies = copies_after(&[Come, Leave, Come, Leave, Come, Leave, Leave], "10s").await;
    assert_eq!(copies, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_p4_relays_that_crash_lose_nothing_and_double_what_was_in_flight() {
    use Change::{Come, Crash, Leave};
    let changes = [Come, Crash, Come, Crash, Leave, Come, Crash, Come, Crash];
    let copies = copies_after(&changes, "2s").await;
    println!("{copies} copies after 4 crashes");
    assert!(copies <= 4 * MOST_IN_FLIGHT, "{copies}");
}

/// Keeps as many relays as `counts` says, one count after the other, under load: each time they own
/// fair shares and all publish, and in the end everything has arrived in order.
async fn share_while_members_change(fixture: &Fixture, counts: &[usize]) {
    let mut relays = vec![fixture.start_relay("3s")];
    fixture.until_shared_by(1).await;
    let load = Load::of(fixture, 40).await;
    let mut rounds = 0;
    for &members in counts {
        rounds += usize::from(members < relays.len());
        while relays.len() < members {
            relays.push(fixture.start_relay("3s"));
        }
        // The oldest first: in turn one is killed and one leaves in order.
        for (gone, mut relay) in relays.drain(..relays.len() - members).enumerate() {
            if gone % 2 == 0 {
                relay.kill();
            } else {
                relay.terminate();
                assert_eq!(relay.exit_code(PATIENCE).await, Some(0), "{}", relay.log());
            }
        }
        fixture.until_shared_by(members).await;
        fixture.assert_all_work(&relays).await;
    }
    let copies = fixture.assert_all_arrive_in_order(load).await;
    println!("{copies} copies after {rounds} rounds of crashes");
    // Those who are killed in a round own all slots at most, and few do so twice: who takes one over
    // waits for its lease to run out.
    assert!(copies <= 2 * rounds * MOST_IN_FLIGHT, "{copies}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_p4_one_to_five_relays_own_fair_shares_whoever_was_killed_or_left() {
    share_while_members_change(&Fixture::new().await, &[3, 5, 2, 4, 1, 5]).await;
}

/// One of `make soak`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "thirty-two processes"]
async fn p2_p3_p4_up_to_thirty_two_relays_own_fair_shares_whoever_was_killed_or_left() {
    let _alone = alone().await;
    // Their connections are most of those that Postgres allows.
    let postgres = OwnPostgres::start().await;
    let database = postgres.database().await;
    let fixture = Fixture::in_database(database).await;
    share_while_members_change(&fixture, &[32, 13, 27, 2, 32]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_relays_share_the_slots_and_the_events() {
    let fixture = Fixture::new().await;
    let mut relays: Vec<_> = (0..5).map(|_| fixture.relay(10)).collect();
    eventually("fair shares", PATIENCE, async || {
        for stepped in &mut relays {
            stepped.relay.step().await.unwrap();
        }
        (fixture.shares().await == [6, 6, 6, 7, 7]).then_some(())
    })
    .await;
    let keys: Vec<String> = (0..200).map(|n| format!("k{}", n % 80)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    fixture.write(&keys).await;
    eventually("everything to be published", PATIENCE, async || {
        for stepped in &mut relays {
            let step = stepped.relay.step().await.unwrap();
            assert_ne!(step, Step::NothingOwned);
        }
        (fixture.count("published").await == 200).then_some(())
    })
    .await;
    let (_, copies) = fixture.published_by_key().await;
    assert_eq!(copies, 0);
    for stepped in &relays {
        assert!(stepped.metrics.published.get() > 0, "each did its share");
    }
}
