//! Events that somebody deleted and wrote anew by hand, under ids that are held or published: they
//! must stop nothing, and none may get lost.

use storage::Connection;
use storage::lease::{MemberId, claim, ensure_units, renew};
use storage::outbox::{
    Destination, Hold, HoldCause, MoveFrom, ReplayBounds, TopicKey, append, discard, hold,
    move_back, redrive, replay,
};

use crate::support::{Fixture, TTL, event, read_all, settled};

const SCOPE: &str = "outbox-relay";

/// Events 1 to 4 of key `k`, held as `causes` say where they are not null, then written anew; and a
/// member that owns all slots under epoch 1.
async fn rewritten(causes: &str) -> (Fixture, Connection, MemberId) {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("k"), event("k"), event("k"), event("k")])
        .await
        .unwrap();
    fixture
        .run(&format!(
            "with d as (select id, cause from unnest({causes}) with ordinality d(cause, id)
                        where cause is not null),
             moved as (delete from outbox_pending p using d where p.id = d.id
                       returning p.id, p.slot, d.cause)
             insert into outbox_held (bytes, id, slot, topic, key, cause, blocked_by)
             select 10, id, slot, 't', 'k', cause, case cause when 'blocked' then 1 end from moved"
        ))
        .await;
    write_anew(&fixture, "select id from outbox_held").await;
    let member = MemberId::generate();
    ensure_units(&mut conn, SCOPE, 32).await.unwrap();
    renew(&mut conn, SCOPE, member, TTL).await.unwrap();
    let units: Vec<_> = (0..32).map(|unit| (unit, 0)).collect();
    claim(&mut conn, SCOPE, member, &units).await.unwrap();
    (fixture, conn, member)
}

async fn write_anew(fixture: &Fixture, ids: &str) {
    fixture
        .run(&format!(
            "with gone as (delete from outbox_event where id in ({ids}) returning *)
             insert into outbox_event overriding system value select * from gone"
        ))
        .await;
}

/// The ids in a table, with what `column` says of each.
async fn ids(fixture: &Fixture, table: &str, column: &str) -> String {
    let ids = format!(
        "select coalesce(string_agg(concat_ws(':', id, {column}), ' ' order by id), '') from {table}"
    );
    fixture.text(&ids).await
}

#[tokio::test]
async fn an_id_that_is_held_already_is_held_for_its_new_cause() {
    let (fixture, mut conn, member) = rewritten("array['dead', 'blocked', 'dead', null]").await;
    fixture
        .run("update outbox_held set discarded_at = now() where id = 3")
        .await;
    let pending = read_all(&mut conn).await;
    let to_hold = |index: usize, cause| Hold {
        slot: pending[index].slot,
        epoch: 1,
        id: pending[index].id,
        version: pending[index].version,
        topic: "t".to_owned(),
        key: "k".to_owned(),
        destination: Destination::NOWHERE,
        cause,
        error: Some("still too large".to_owned()),
        attempts: 2,
    };
    let holds = [
        to_hold(0, HoldCause::Dead),
        to_hold(1, HoldCause::Blocked),
        to_hold(2, HoldCause::Unavailable),
        to_hold(3, HoldCause::Blocked),
    ];
    let held = hold(&mut conn, SCOPE, member, &holds).await.unwrap();
    assert_eq!(held.iter().map(|held| held.events).sum::<i64>(), 4);
    assert_eq!(
        ids(
            &fixture,
            "outbox_held",
            "cause, attempts, blocked_by, discarded_at"
        )
        .await,
        "1:dead:2 2:blocked:1 3:unavailable:2 4:blocked:1"
    );
    assert_eq!(ids(&fixture, "outbox_pending", "null").await, "");
}

#[tokio::test]
async fn an_event_that_is_pending_in_two_slots_is_held_once() {
    let (fixture, mut conn, member) = rewritten("array[null]::text[]").await;
    fixture
        .run("insert into outbox_pending select (slot + 1) & 31, id, bytes from outbox_pending where id = 1")
        .await;
    let versions = read_all(&mut conn).await;
    let first = &versions[0];
    let twice = [first.slot.number(), (first.slot.number() + 1) & 31].map(|slot| Hold {
        slot: i32::from(slot).try_into().unwrap(),
        epoch: 1,
        id: 1,
        version: first.version,
        topic: "t".to_owned(),
        key: "k".to_owned(),
        destination: Destination::NOWHERE,
        cause: HoldCause::Dead,
        error: None,
        attempts: 0,
    });
    // Both rows of one writer, as both holds say.
    fixture
        .run("update outbox_pending set bytes = bytes where id = 1")
        .await;
    let version = read_all(&mut conn).await[0].version;
    let twice = twice.map(|hold| Hold { version, ..hold });
    hold(&mut conn, SCOPE, member, &twice).await.unwrap();
    assert_eq!(ids(&fixture, "outbox_held", "cause").await, "1:dead");
    assert_eq!(ids(&fixture, "outbox_pending", "null").await, "2 3 4");
}

#[tokio::test]
async fn what_goes_back_to_pending_may_be_there_already() {
    let key = [TopicKey {
        topic: "t".to_owned(),
        key: "k".to_owned(),
    }];
    let causes = "array['dead', 'blocked', 'blocked', null]";
    let (fixture, mut conn, _) = rewritten(causes).await;
    let redriven = redrive(&mut conn, &key).await.unwrap();
    assert_eq!((redriven.dead, redriven.blocked), (1, 2));
    assert_eq!(ids(&fixture, "outbox_held", "cause").await, "");
    assert_eq!(ids(&fixture, "outbox_pending", "null").await, "1 2 3 4");

    let (fixture, mut conn, _) = rewritten(causes).await;
    let discarded = discard(&mut conn, &key, None).await.unwrap();
    assert_eq!((discarded.discarded, discarded.returned), (1, 2));
    assert_eq!(ids(&fixture, "outbox_held", "cause").await, "1:dead");
    assert_eq!(ids(&fixture, "outbox_pending", "null").await, "1 2 3 4");

    let (fixture, mut conn, member) =
        rewritten("array['unavailable', 'unavailable', null, null]").await;
    let slot = read_all(&mut conn).await[0].slot;
    let nowhere = [Destination::NOWHERE];
    let from = MoveFrom {
        topic: "t",
        destinations: &nowhere,
        lowest: 1,
    };
    let moved = move_back(&mut conn, SCOPE, member, (slot, 1), from, 10)
        .await
        .unwrap();
    assert_eq!(moved, 2);
    assert_eq!(ids(&fixture, "outbox_held", "cause").await, "");
    assert_eq!(ids(&fixture, "outbox_pending", "null").await, "1 2 3 4");

    for bounds in [
        ReplayBounds::default(),
        ReplayBounds {
            key: Some("k".to_owned()),
            ..ReplayBounds::default()
        },
    ] {
        let (fixture, mut conn, _) = rewritten("array[null]::text[]").await;
        let mut facts: Vec<_> = read_all(&mut conn)
            .await
            .iter()
            .map(|pending| settled(pending, 1))
            .collect();
        storage::outbox::settle(&mut conn, &mut facts)
            .await
            .unwrap();
        write_anew(&fixture, "2, 3").await;
        let replayed = replay(&mut conn, &bounds, None, 10).await.unwrap();
        assert_eq!(replayed.matching, 4);
        assert_eq!(ids(&fixture, "outbox_published", "null").await, "");
        assert_eq!(ids(&fixture, "outbox_pending", "null").await, "1 2 3 4");
    }
}
