//! Any number of members, from one to more than there are units, shares them fairly and soon.

use std::collections::BTreeMap;
use std::time::Instant;

use local_stack::testing::eventually;
use storage::lease::{
    Keeper, Leases, MemberId, claim, decide, ensure_units, release, renew, snapshot,
};
use storage::{Connection, Session};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, TTL};

const UNITS: i32 = 32;

/// All members renew, then all decide on what the tables say and act, one after the other: nobody
/// has anything in flight.
async fn round(conn: &mut Connection, scope: &str, members: &[MemberId]) {
    for member in members {
        renew(conn, scope, *member, TTL).await.unwrap();
    }
    for member in members {
        let decision = decide(&snapshot(conn, scope).await.unwrap(), *member);
        if !decision.take.is_empty() {
            claim(conn, scope, *member, &decision.take).await.unwrap();
        }
        release(conn, scope, *member, &decision.give_up)
            .await
            .unwrap();
    }
}

/// How many units each owner has, `None` standing for nobody.
async fn shares(conn: &mut Connection, scope: &str) -> BTreeMap<Option<MemberId>, usize> {
    let mut shares = BTreeMap::new();
    for unit in snapshot(conn, scope).await.unwrap().units {
        *shares.entry(unit.owner).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn any_number_of_members_has_fair_shares_after_two_rounds() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    for count in [1, 2, 3, 5, 7, 16, 31, 32, 33] {
        let scope = format!("{count} members");
        ensure_units(&mut conn, &scope, UNITS).await.unwrap();
        let members: Vec<MemberId> = (0..count).map(|_| MemberId::generate()).collect();
        // The first one was alone until the others came, all at once.
        round(&mut conn, &scope, &members[..1]).await;
        assert_eq!(
            shares(&mut conn, &scope).await,
            [(Some(members[0]), 32)].into()
        );
        round(&mut conn, &scope, &members).await;
        round(&mut conn, &scope, &members).await;

        let shares = shares(&mut conn, &scope).await;
        assert_eq!(shares.get(&None), None, "{count} members leave units free");
        assert_eq!(
            shares.len(),
            count.min(32),
            "{count} members, some idle: {shares:?}"
        );
        let (least, most) = (
            shares.values().min().unwrap(),
            shares.values().max().unwrap(),
        );
        assert!(most - least <= 1, "{count} members: {shares:?}");
    }
}

/// A worker with nothing in flight: it releases what others are due as soon as it hears of it.
async fn release_at_once(mut leases: Leases) {
    loop {
        for (unit, tenure) in leases.ownership().units() {
            if tenure.leaving {
                leases.release(unit).await;
            }
        }
        leases.changed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_keepers_own_one_unit_each_and_one_that_stays_gets_all_back() {
    const SCOPE: &str = "keepers";
    let fixture = Fixture::new().await;
    let stop = CancellationToken::new();
    let (mut running, mut workers) = (JoinSet::new(), JoinSet::new());
    let mut start = |stop: &CancellationToken| {
        let session = Session::leased("test", TTL);
        let (keeper, leases) = Keeper::new(fixture.database.clone(), session, SCOPE, TTL, UNITS);
        running.spawn(keeper.run(stop.clone()));
        workers.spawn(release_at_once(leases.clone()));
        leases
    };
    let first = start(&CancellationToken::new());
    eventually("one to own all", TTL, async || {
        (first.ownership().units().count() == 32).then_some(())
    })
    .await;
    let came = Instant::now();
    let others: Vec<Leases> = (1..32).map(|_| start(&stop)).collect();
    eventually("one unit each", TTL * 2, async || {
        let own_one = |leases: &Leases| leases.ownership().units().count() == 1;
        (own_one(&first) && others.iter().all(own_one)).then_some(())
    })
    .await;
    // They tell each other: nobody waits for a beat.
    let took = came.elapsed();
    println!("32 keepers shared 32 units within {took:?}");
    assert!(took < TTL / 3, "{took:?}");

    stop.cancel();
    eventually("one to own all again", TTL * 2 / 3, async || {
        (first.ownership().units().count() == 32).then_some(())
    })
    .await;
    let dead = "select count(*) from lease_member";
    assert_eq!(fixture.number(dead).await, 1, "those who left are gone");
}
