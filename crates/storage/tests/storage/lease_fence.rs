//! The fence of a decision: it is passed under the lease alone, and nobody takes a unit while its
//! owner is behind it.

use std::time::Duration;

use local_stack::testing::eventually;
use storage::Connection;
use storage::lease::{MemberId, claim, ensure_units, renew};
use storage::outbox::{Destination, Hold, HoldCause, PendingEvent, append, hold};

use crate::support::{Fixture, TTL, event, read_all};

const SCOPE: &str = "outbox-relay";

fn dead(event: &PendingEvent, epoch: i64) -> Hold {
    Hold {
        slot: event.slot,
        epoch,
        id: event.id,
        version: event.version,
        topic: event.event.topic.clone(),
        key: event.event.key.clone(),
        destination: Destination::NOWHERE,
        cause: HoldCause::Dead,
        error: None,
        attempts: 1,
    }
}

/// How many events were held.
async fn held(conn: &mut Connection, member: MemberId, holds: &[Hold]) -> i64 {
    let held = hold(conn, SCOPE, member, holds).await.unwrap();
    held.iter().map(|held| held.events).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_unit_does_not_change_hands_while_its_owner_is_behind_the_fence() {
    let fixture = Fixture::new().await;
    let (mut mine, mut theirs) = (fixture.connect().await, fixture.connect().await);
    append(&mut mine, &[event("k"), event("k")]).await.unwrap();
    let events = read_all(&mut mine).await;
    let unit = i32::from(events[0].slot.number());
    let (me, other) = (MemberId::generate(), MemberId::generate());
    ensure_units(&mut mine, SCOPE, 32).await.unwrap();
    for member in [me, other] {
        renew(&mut mine, SCOPE, member, TTL).await.unwrap();
    }
    claim(&mut mine, SCOPE, me, &[(unit, 0)]).await.unwrap();

    // Behind the fence until the test lets it go.
    fixture
        .run(
            "create function dwell() returns trigger language plpgsql as $$
             begin perform pg_advisory_xact_lock(4711); return new; end $$;
             create trigger dwell before insert on outbox_held
             for each row execute function dwell();
             select pg_advisory_lock(4711)",
        )
        .await;
    let first = dead(&events[0], 1);
    let holding = tokio::spawn(async move {
        let held = held(&mut mine, me, &[first]).await;
        (mine, held)
    });
    eventually("the hold to be behind the fence", TTL, async || {
        let waiting = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
                       where a.datname = current_database() and l.locktype = 'advisory'
                       and not l.granted";
        (fixture.number(waiting).await == 1).then_some(())
    })
    .await;
    fixture
        .run(&format!(
            "update lease_member set expires_at = clock_timestamp() where member_id = '{me}'"
        ))
        .await;
    let seen = [(unit, 1)];
    let taking = claim(&mut theirs, SCOPE, other, &seen);
    let taken = tokio::time::timeout(Duration::from_secs(3), taking).await;
    let taken = taken.expect("who wants it does not wait").unwrap();
    assert!(taken.is_empty());
    fixture.run("select pg_advisory_unlock(4711)").await;
    let (mut mine, first) = holding.await.unwrap();
    assert_eq!(first, 1);

    // Now it does, and what follows is too late, under the old epoch or under one never owned.
    let taken = claim(&mut theirs, SCOPE, other, &[(unit, 1)])
        .await
        .unwrap();
    assert_eq!(taken[0].epoch, 2);
    for epoch in [1, 2] {
        assert_eq!(held(&mut mine, me, &[dead(&events[1], epoch)]).await, 0);
    }
    assert_eq!(held(&mut theirs, other, &[dead(&events[1], 1)]).await, 0);
    assert_eq!(held(&mut theirs, other, &[dead(&events[1], 2)]).await, 1);
}
