//! A tenure that has ended never comes back: whoever owns the unit again owns it under a new epoch.

use std::collections::BTreeMap;
use std::time::Duration;

use local_stack::testing::eventually;
use storage::Session;
use storage::lease::{Keeper, Leases};

use crate::support::Fixture;

const SCOPE: &str = "s";

fn keeper(fixture: &Fixture, ttl: Duration) -> (Keeper, Leases) {
    let session = Session::leased("test", ttl);
    Keeper::new(fixture.database.clone(), session, SCOPE, ttl, 4)
}

fn epochs(leases: &Leases) -> BTreeMap<i32, i64> {
    let ownership = leases.ownership();
    ownership.units().map(|(unit, t)| (unit, t.epoch)).collect()
}

fn all_under(epoch: i64) -> BTreeMap<i32, i64> {
    (0..4).map(|unit| (unit, epoch)).collect()
}

async fn until_run_out(leases: &Leases) {
    eventually(
        "the lease to run out",
        Duration::from_secs(10),
        async || leases.ownership().has_run_out().then_some(()),
    )
    .await;
}

#[tokio::test]
async fn p6_what_ran_out_by_its_own_clock_is_claimed_again_under_new_epochs() {
    let fixture = Fixture::new().await;
    // So long that the table still names the member when its own clock has ended the tenure.
    let (mut keeper, leases) = keeper(&fixture, Duration::from_secs(1));
    keeper.beat().await.unwrap();
    assert_eq!(epochs(&leases), all_under(1));
    keeper.beat().await.unwrap();
    assert_eq!(epochs(&leases), all_under(1), "renewed in time");
    for epoch in 2..4 {
        until_run_out(&leases).await;
        assert_eq!(epochs(&leases), BTreeMap::new());
        keeper.beat().await.unwrap();
        assert_eq!(epochs(&leases), all_under(epoch));
    }
    let table = "select count(*) from lease where owner is not null and epoch = 3";
    assert_eq!(fixture.number(table).await, 4);
}

#[tokio::test]
async fn p6_a_higher_epoch_that_the_table_gives_is_adopted() {
    let fixture = Fixture::new().await;
    let (mut keeper, leases) = keeper(&fixture, Duration::from_secs(30));
    keeper.beat().await.unwrap();
    // As when the answer to a claim is lost.
    fixture
        .run("update lease set epoch = 7 where unit = 2")
        .await;
    keeper.beat().await.unwrap();
    let mut expected = all_under(1);
    expected.insert(2, 7);
    assert_eq!(epochs(&leases), expected);
    // And one of before is not.
    fixture
        .run("update lease set epoch = 6 where unit = 2")
        .await;
    keeper.beat().await.unwrap();
    keeper.beat().await.unwrap();
    assert!(epochs(&leases)[&2] > 7, "{:?}", epochs(&leases));
}

#[tokio::test]
async fn p6_a_unit_whose_release_is_not_known_to_have_happened_is_claimed_again() {
    let fixture = Fixture::new().await;
    let (mut keeper, leases) = keeper(&fixture, Duration::from_secs(30));
    keeper.beat().await.unwrap();
    leases.release(1).await;
    keeper.answer_requests().await.unwrap();
    // As when the request was lost.
    fixture
        .run("update lease set owner = (select member_id from lease_member) where unit = 1")
        .await;
    keeper.beat().await.unwrap();
    let mut expected = all_under(1);
    expected.insert(1, 2);
    assert_eq!(epochs(&leases), expected);
}

/// A heartbeat whose later parts fail or take long still renews.
#[tokio::test]
async fn what_is_renewed_counts_although_the_rest_of_the_heartbeat_fails() {
    let fixture = Fixture::new().await;
    let (mut keeper, leases) = keeper(&fixture, Duration::from_secs(30));
    keeper.beat().await.unwrap();
    // A newcomer: its first heartbeat claims, which fails here; its second finds what it has.
    fixture
        .run(
            "create function refuse() returns trigger language plpgsql as $$
             begin raise exception 'no claims today'; end $$;
             create trigger refuse before update on lease for each row execute function refuse();
             insert into lease (scope, unit) values ('s', 4)",
        )
        .await;
    leases.resize(5).await;
    keeper.answer_requests().await.unwrap();
    for _ in 0..3 {
        keeper.beat().await.unwrap_err();
        assert_eq!(epochs(&leases), all_under(1));
    }
    fixture.run("drop trigger refuse on lease").await;
    keeper.beat().await.unwrap();
    let mut expected = all_under(1);
    expected.insert(4, 1);
    assert_eq!(epochs(&leases), expected);
}

#[tokio::test]
async fn rows_of_members_that_expired_long_ago_are_removed_by_any_member() {
    let fixture = Fixture::new().await;
    let (mut keeper, _leases) = keeper(&fixture, Duration::from_secs(30));
    keeper.beat().await.unwrap();
    fixture
        .run(
            "insert into lease_member
             select 's', gen_random_uuid(), '10 s', now() - make_interval(mins => n)
             from generate_series(1, 120) n",
        )
        .await;
    let (mut newcomer, _leases) = self::keeper(&fixture, Duration::from_secs(30));
    newcomer.beat().await.unwrap();
    let rows = fixture.number("select count(*) from lease_member").await;
    assert_eq!(rows, 59 + 2);
}
