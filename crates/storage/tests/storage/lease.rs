//! Leases against the real clock of the real Postgres.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use diesel::dsl::sql;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use local_stack::testing::eventually;
use storage::Session;
use storage::lease::{Keeper, Leases, MemberId, claim, decide, ensure_units, renew, snapshot};
use storage::notify::{Channel, notify};
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, TTL};

const SCOPE: &str = "s";

fn keeper(fixture: &Fixture, ttl: Duration) -> (Keeper, Leases) {
    let session = Session::leased("test", ttl);
    Keeper::new(fixture.database.clone(), session, SCOPE, ttl, 8)
}

fn owned(leases: &Leases) -> BTreeSet<i32> {
    leases.ownership().units().map(|(unit, _)| unit).collect()
}

#[tokio::test]
async fn a_unit_is_taken_at_the_epoch_seen_and_from_the_dead_only() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    ensure_units(&mut conn, SCOPE, 2).await.unwrap();
    ensure_units(&mut conn, SCOPE, 2).await.unwrap();
    let (a, b) = (MemberId::generate(), MemberId::generate());
    for member in [a, b] {
        assert!(
            renew(&mut conn, SCOPE, member, TTL)
                .await
                .unwrap()
                .is_empty()
        );
    }
    let got = claim(&mut conn, SCOPE, a, &[(0, 0), (1, 0)]).await.unwrap();
    assert_eq!(
        got.iter().map(|c| (c.unit, c.epoch)).collect::<Vec<_>>(),
        [(0, 1), (1, 1)]
    );
    assert!(
        claim(&mut conn, SCOPE, b, &[(0, 0)])
            .await
            .unwrap()
            .is_empty(),
        "old epoch"
    );
    assert!(
        claim(&mut conn, SCOPE, b, &[(0, 1)])
            .await
            .unwrap()
            .is_empty(),
        "a lives"
    );

    fixture
        .run(&format!(
            "update lease_member set expires_at = now() - interval '1 ms' where member_id = '{a}'"
        ))
        .await;
    assert_eq!(snapshot(&mut conn, SCOPE).await.unwrap().members.len(), 1);
    let got = claim(&mut conn, SCOPE, b, &[(0, 1)]).await.unwrap();
    assert_eq!(got[0].epoch, 2);
    // Back from the dead it still owns what nobody took.
    assert_eq!(renew(&mut conn, SCOPE, a, TTL).await.unwrap()[0].unit, 1);
}

#[tokio::test]
async fn a_heartbeat_from_the_future_is_a_dead_one() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    ensure_units(&mut conn, SCOPE, 1).await.unwrap();
    let (a, b) = (MemberId::generate(), MemberId::generate());
    renew(&mut conn, SCOPE, a, TTL).await.unwrap();
    claim(&mut conn, SCOPE, a, &[(0, 0)]).await.unwrap();
    fixture
        .run("update lease_member set expires_at = now() + interval '1 hour'")
        .await;
    renew(&mut conn, SCOPE, b, TTL).await.unwrap();
    let seen = snapshot(&mut conn, SCOPE).await.unwrap();
    assert_eq!(decide(&seen, b).take, [(0, 1)]);
    assert_eq!(
        claim(&mut conn, SCOPE, b, &[(0, 1)]).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn units_that_are_no_more_are_wanted_back_and_count_for_nobodys_share() {
    let fixture = Fixture::new().await;
    let ttl = Duration::from_mins(1);
    let ((mut first_keeper, first), (mut second_keeper, second)) =
        (keeper(&fixture, ttl), keeper(&fixture, ttl));
    first_keeper.beat().await.unwrap();
    assert_eq!(owned(&first), (0..8).collect());
    first.resize(2).await;
    second.resize(2).await;
    for keeper in [&mut first_keeper, &mut second_keeper] {
        keeper.answer_requests().await.unwrap();
        keeper.beat().await.unwrap();
    }
    first_keeper.beat().await.unwrap();
    let leaving = first.ownership();
    let leaving = leaving.units().filter(|(_, tenure)| tenure.leaving);
    let leaving: BTreeSet<i32> = leaving.map(|(unit, _)| unit).collect();
    assert_eq!(leaving, (1..8).collect());
    for unit in leaving {
        first.release(unit).await;
    }
    first_keeper.answer_requests().await.unwrap();
    for keeper in [&mut first_keeper, &mut second_keeper] {
        keeper.beat().await.unwrap();
    }
    assert_eq!(owned(&first), BTreeSet::from([0]));
    assert_eq!(owned(&second), BTreeSet::from([1]));
    // They may come back.
    first.resize(4).await;
    first_keeper.answer_requests().await.unwrap();
    first_keeper.beat().await.unwrap();
    assert_eq!(owned(&first).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_every_unit_is_owned_once() {
    let fixture = Fixture::new().await;
    let ttl = Duration::from_secs(2);
    let (first_keeper, first) = keeper(&fixture, ttl);
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let running_first = tokio::spawn(first_keeper.run(stop_first.clone()));
    eventually(
        "the first member to own all",
        Duration::from_secs(5),
        async || (owned(&first).len() == 8).then_some(()),
    )
    .await;

    // The second one is due half: the first is told, and releases what it has nothing of in flight.
    let (second_keeper, second) = keeper(&fixture, ttl);
    let came = Instant::now();
    let running_second = tokio::spawn(second_keeper.run(stop_second.clone()));
    eventually("shares of four", Duration::from_secs(10), async || {
        for (unit, tenure) in first.ownership().units() {
            if tenure.leaving {
                first.release(unit).await;
            }
        }
        assert!(owned(&first).is_disjoint(&owned(&second)));
        (owned(&first).len() == 4 && owned(&second).len() == 4).then_some(())
    })
    .await;

    assert!(
        came.elapsed() < Duration::from_millis(600),
        "{:?}",
        came.elapsed()
    );
    // A graceful end gives everything back at once, an abrupt one after the lease's time.
    stop_first.cancel();
    running_first.await.unwrap();
    let left = Instant::now();
    eventually(
        "the second member to own all",
        Duration::from_secs(1),
        async || (owned(&second).len() == 8).then_some(()),
    )
    .await;
    assert!(
        left.elapsed() < Duration::from_millis(500),
        "{:?}",
        left.elapsed()
    );

    running_second.abort();
    let died = Instant::now();
    let (third_keeper, third) = keeper(&fixture, ttl);
    let stop_third = CancellationToken::new();
    let running_third = tokio::spawn(third_keeper.run(stop_third.clone()));
    eventually(
        "the third member to own all",
        Duration::from_secs(10),
        async || (owned(&third).len() == 8).then_some(()),
    )
    .await;
    assert!(
        died.elapsed() < ttl + Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
    // By its own clock the dead one knew before anybody took its units.
    assert!(owned(&second).is_empty());
    stop_third.cancel();
    running_third.await.unwrap();
    assert_eq!(
        fixture
            .number("select count(*) from lease where owner is not null")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_without_postgres_the_time_runs_out_by_the_members_own_clock() {
    let fixture = Fixture::new().await;
    let ttl = Duration::from_secs(1);
    let (mut keeper, leases) = keeper(&fixture, ttl);
    keeper.beat().await.unwrap();
    assert_eq!(owned(&leases).len(), 8);
    let epoch = leases.epoch(0).unwrap();
    let mut follower = leases.clone();
    follower.changed().await;
    // No further beat, as when Postgres or the process stands still.
    let beaten = Instant::now();
    eventually("the leases to run out", ttl, async || {
        owned(&leases).is_empty().then_some(())
    })
    .await;
    assert!(beaten.elapsed() < ttl, "before anybody else may take them");
    assert_eq!(leases.epoch(0), None);
    let news = tokio::time::timeout(TTL, follower.changed());
    keeper.beat().await.unwrap();
    assert_eq!(leases.epoch(0), Some(epoch + 1), "nobody took it meanwhile");
    news.await
        .expect("workers that ended are told to start again");
}

#[tokio::test]
async fn p9_a_claim_that_follows_a_wake_up_is_as_durable_as_any() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    notify(&mut conn, Channel::Lease).await.unwrap();
    // An epoch that a crash of the server takes back would be given out twice.
    let setting = diesel::select(sql::<Text>("current_setting('synchronous_commit')"));
    let setting: String = setting.get_result(&mut conn).await.unwrap();
    assert_eq!(setting, "on");
}
