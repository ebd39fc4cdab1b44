//! What an operator is told of the outbox.

use std::collections::HashSet;

use diesel_async::SimpleAsyncConnection;
use domain::Slot;
use storage::lease::{MemberId, claim, ensure_units, renew};
use storage::outbox::{
    HeldCounts, append, held_counts, horizon_holders, lowest_pending, oldest_by_state,
    published_count, settle, slots, slots_to_watch, still_waiting, verify,
};

use crate::support::{Fixture, TTL, event, read_all, settled};

#[tokio::test]
async fn each_offender_is_named() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let events: Vec<_> = (0..10).map(|_| event("k")).collect();
    append(&mut conn, &events).await.unwrap();
    let mut first = [settled(&read_all(&mut conn).await[0], 1)];
    settle(&mut conn, &mut first).await.unwrap();
    let fine = verify(&mut conn, 10).await.unwrap();
    assert_eq!((fine.events, fine.offenders), (10, vec![]));

    let hold = "insert into outbox_held (bytes, id, slot, topic, key, cause)
        select 10, id, hashtextextended(key, 0) & 31, topic, key, 'blocked' from outbox_event where id";
    fixture
        .run(&format!(
            "set session_replication_role = replica;
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 values (gen_random_uuid(), 't', 'k', 'T', '{{}}');
             set session_replication_role = origin;
             insert into outbox_published values (2, 0, 0), (3, 0, 0), (77, 0, 0);
             delete from outbox_pending where id = 3;
             {hold} in (3, 4);
             update outbox_pending set slot = (slot + 1) % 32 where id = 5;
             delete from outbox_event where id = 6;
             delete from outbox_pending where id = 7; {hold} = 7;
             update outbox_held set topic = 'elsewhere' where id = 7;
             delete from outbox_pending where id = 8; {hold} = 8;
             update outbox_held set slot = (slot + 1) % 32 where id = 8"
        ))
        .await;
    let found = verify(&mut conn, 100).await.unwrap();
    let named: Vec<(i64, &str)> = found
        .offenders
        .iter()
        .map(|offender| (offender.id, offender.state.as_str()))
        .collect();
    for expected in [
        (2, "pending and published"),
        (3, "published and held"),
        (3, "blocked by nothing"),
        (4, "pending and held"),
        (5, "pending in a wrong slot"),
        (6, "pending without an event"),
        (7, "held under a wrong key"),
        (7, "blocked by nothing"),
        (8, "held in a wrong slot"),
        (11, "unqueued"),
        (77, "published without an event"),
    ] {
        assert!(named.contains(&expected), "{expected:?} in {named:?}");
    }
    assert_eq!(named.len(), 11, "{named:?}");
    assert_eq!(verify(&mut conn, 2).await.unwrap().offenders.len(), 2);
}

#[tokio::test]
async fn slots_tell_their_owner_and_what_waits() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &vec![event("k"); 3]).await.unwrap();
    let nobody = slots(&mut conn, "scope", 2).await.unwrap();
    assert_eq!(nobody.len(), 32);
    assert!(nobody.iter().all(|slot| slot.owner.is_none()));
    assert_eq!(nobody.iter().map(|slot| slot.pending).sum::<i64>(), 2);

    let me = MemberId::generate();
    ensure_units(&mut conn, "scope", 32).await.unwrap();
    renew(&mut conn, "scope", me, TTL).await.unwrap();
    claim(&mut conn, "scope", me, &[(7, 0)]).await.unwrap();
    let owned = slots(&mut conn, "scope", 2).await.unwrap();
    assert_eq!(owned[7].owner, Some(me.as_uuid()));
    assert_eq!(owned[7].epoch, 1);
    assert!(owned[7].expires_in_seconds.unwrap() > 5.0);
    assert_eq!(owned[8].owner, None);

    fixture
        .run("update lease_member set expires_at = clock_timestamp()")
        .await;
    let dead = slots(&mut conn, "scope", 2).await.unwrap();
    assert_eq!(dead[7].owner, Some(me.as_uuid()));
    assert_eq!(dead[7].expires_in_seconds, None);
}

#[tokio::test]
async fn counts_end_at_their_bound() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    fixture
        .run(
            "insert into outbox_published select n, 0, n from generate_series(1, 20) n;
             insert into outbox_held (bytes, id, slot, topic, key, cause, discarded_at)
             select 10, n, 0, 't', 'k', (array['dead', 'blocked', 'blocked', 'unavailable', 'dead'])[n],
                    case n when 5 then now() end
             from generate_series(1, 5) n",
        )
        .await;
    assert_eq!(published_count(&mut conn, 7).await.unwrap(), 7);
    assert_eq!(published_count(&mut conn, 99).await.unwrap(), 20);
    let counts = held_counts(&mut conn, 99).await.unwrap();
    let expected = HeldCounts {
        dead: 1,
        blocked: 2,
        unavailable: 1,
        discarded: 1,
    };
    assert_eq!(counts, expected);
    assert_eq!(held_counts(&mut conn, 2).await.unwrap().total(), 2);
}

#[tokio::test]
async fn the_first_of_each_slot_and_what_still_waits_are_found() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let all: Vec<Slot> = Slot::all().collect();
    append(&mut conn, &[event("k"), event("k"), event("k")])
        .await
        .unwrap();
    let first = lowest_pending(&mut conn, &all).await.unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].id, first[0].key.as_str()), (1, "k"));
    assert_eq!(lowest_pending(&mut conn, &[]).await.unwrap(), []);

    let slot = first[0].slot;
    fixture
        .run(
            "with moved as (delete from outbox_pending where id < 3 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, id, slot, 't', 'k', (array['unavailable', 'dead'])[id] from moved",
        )
        .await;
    let events: Vec<(Slot, i64)> = (1..=4).map(|id| (slot, id)).collect();
    let waiting = still_waiting(&mut conn, &events).await.unwrap();
    assert_eq!(
        waiting,
        HashSet::from([1, 3]),
        "a dead one waits for nobody"
    );
}

#[tokio::test]
async fn the_oldest_of_each_state_says_how_long_it_has_waited() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    fixture
        .run(
            "insert into outbox_event (event_id, topic, key, event_type, payload, created_at)
             select gen_random_uuid(), 't', 'k', 'T', '{}', now() - make_interval(mins => 10 - n)
             from generate_series(1, 5) n;
             with moved as (delete from outbox_pending where id in (2, 3, 4) returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, id, slot, 't', 'k', (array['dead', 'blocked', 'unavailable'])[id - 1]
             from moved",
        )
        .await;
    let mut minutes: Vec<String> = oldest_by_state(&mut conn)
        .await
        .unwrap()
        .into_iter()
        .map(|age| format!("{}:{}", age.state.as_str(), (age.seconds / 60.0).floor()))
        .collect();
    minutes.sort();
    assert_eq!(
        minutes,
        ["blocked:7", "dead:8", "pending:9", "unavailable:6"]
    );
    let shown = "select string_agg(concat_ws(':', state, floor(extract(epoch from waiting) / 60)),
                        ' ' order by id) from outbox";
    assert_eq!(
        fixture.text(shown).await,
        "pending:9 dead:8 blocked:7 unavailable:6 pending:5"
    );
}

#[tokio::test]
async fn a_member_answers_for_its_own_slots_and_for_those_of_nobody() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let (me, other, dead) = (
        MemberId::generate(),
        MemberId::generate(),
        MemberId::generate(),
    );
    ensure_units(&mut conn, "s", 32).await.unwrap();
    for (member, from) in [(me, 0), (other, 10), (dead, 20)] {
        renew(&mut conn, "s", member, TTL).await.unwrap();
        let units: Vec<_> = (from..from + 10).map(|unit| (unit, 0)).collect();
        claim(&mut conn, "s", member, &units).await.unwrap();
    }
    fixture
        .run(&format!(
            "update lease_member set expires_at = clock_timestamp() where member_id = '{dead}'"
        ))
        .await;
    let slots = slots_to_watch(&mut conn, "s", me).await.unwrap();
    let slots: Vec<i16> = slots.into_iter().map(Slot::number).collect();
    let expected: Vec<i16> = (0..10).chain(20..32).collect();
    assert_eq!(slots, expected);
}

#[tokio::test]
async fn whoever_holds_the_horizon_back_is_named() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let gid = format!("p-{}", uuid::Uuid::now_v7());
    fixture
        .run(&format!(
            "create table held_open (i int);
             begin; insert into held_open values (1); prepare transaction '{gid}'"
        ))
        .await;
    let reader = fixture.test.connect().await;
    reader
        .batch_execute(
            "set application_name = 'a report';
             begin isolation level repeatable read; select count(*) from outbox_event",
        )
        .await
        .unwrap();
    let holders = horizon_holders(&mut conn).await.unwrap();
    let named = |part: &str| {
        let found = holders.iter().find(|holder| holder.name.contains(part));
        found.unwrap_or_else(|| panic!("{part} in {holders:?}"))
    };
    assert!(named(&gid).seconds.unwrap() >= 0.0);
    assert!(named("a report").seconds.unwrap() >= 0.0);

    fixture.run(&format!("rollback prepared '{gid}'")).await;
    reader.batch_execute("commit").await.unwrap();
    let holders = horizon_holders(&mut conn).await.unwrap();
    assert!(
        !holders
            .iter()
            .any(|h| h.name.contains(&gid) || h.name.contains("a report")),
        "{holders:?}"
    );
}

#[tokio::test]
async fn without_rights_the_holders_are_seen_and_their_times_are_not() {
    let fixture = Fixture::new().await;
    let role = format!("observer_{}", uuid::Uuid::now_v7().simple());
    fixture.run(&format!("create role {role}")).await;
    fixture
        .run("begin isolation level repeatable read; select from outbox_event")
        .await;
    let mut conn = fixture.connect().await;
    conn.batch_execute(&format!("set role {role}"))
        .await
        .unwrap();
    let holders = horizon_holders(&mut conn).await.unwrap();
    fixture.run(&format!("commit; drop role {role}")).await;
    let session = holders.iter().find(|h| h.name.starts_with("session"));
    assert_eq!(session.unwrap().seconds, None, "{holders:?}");
}
