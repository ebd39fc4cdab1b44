//! Reading, settling, and what a database must be like for a relay to work on it.

use domain::{Content, Slot};
use storage::outbox::{
    BatchLimits, Orphan, PendingEvent, Unfit, append, backlog, check_fitness, read_pending,
    remove_orphans, settle,
};

use crate::support::{Fixture, PLENTY, SOURCE, event, read_all, settled};

#[tokio::test]
async fn settling_moves_each_event_once() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a"), event("b"), event("c")])
        .await
        .unwrap();
    let read = read_all(&mut conn).await;
    let mut facts: Vec<_> = read[..2]
        .iter()
        .rev()
        .map(|p| settled(p, 10 - p.id))
        .collect();
    assert_eq!(settle(&mut conn, &mut facts).await.unwrap(), 2);
    assert_eq!(settle(&mut conn, &mut facts).await.unwrap(), 0);
    assert_eq!(
        fixture
            .text("select string_agg(id || ':' || state || ':' || coalesce(kafka_offset, 0), ' ' order by id) from outbox")
            .await,
        "1:published:9 2:published:8 3:pending:0"
    );
    let rest = read_all(&mut conn).await;
    assert_eq!(rest.iter().map(|p| p.id).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn rows_that_a_rewrite_moved_are_settled_all_the_same() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a"), event("b"), event("c")])
        .await
        .unwrap();
    let mut facts: Vec<_> = read_all(&mut conn)
        .await
        .iter()
        .map(|p| settled(p, p.id))
        .collect();
    // The first row goes, and every other one takes its predecessor's place.
    settle(&mut conn, &mut facts[..1]).await.unwrap();
    fixture.run("vacuum full outbox_pending").await;
    assert_eq!(settle(&mut conn, &mut facts).await.unwrap(), 2);
    assert_eq!(
        fixture
            .text("select string_agg(id || ':' || kafka_offset, ' ' order by id) from outbox_published")
            .await,
        "1:1 2:2 3:3"
    );
}

#[tokio::test]
async fn an_id_that_is_in_both_tables_leaves_the_queue() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a"), event("b")]).await.unwrap();
    fixture
        .run("insert into outbox_published (id, kafka_partition, kafka_offset) values (1, 5, 5)")
        .await;
    let read = read_all(&mut conn).await;
    let mut facts: Vec<_> = read.iter().map(|p| settled(p, 7)).collect();
    settle(&mut conn, &mut facts).await.unwrap();
    assert_eq!(
        fixture
            .text("select string_agg(id || ':' || kafka_offset, ' ' order by id) from outbox_published")
            .await,
        "1:5 2:7"
    );
    assert_eq!(read_all(&mut conn).await, []);
}

#[tokio::test]
async fn a_late_mark_does_not_undo_a_replay() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a")]).await.unwrap();
    let mut first = [settled(&read_all(&mut conn).await[0], 1)];
    let mut late = first;
    settle(&mut conn, &mut first).await.unwrap();
    fixture
        .run(
            "with back as (delete from outbox_published returning id)
             insert into outbox_pending select (hashtextextended('a', 0) & 31), id, 1 from back",
        )
        .await;
    assert_eq!(settle(&mut conn, &mut late).await.unwrap(), 0);
    assert_eq!(read_all(&mut conn).await.len(), 1, "it goes out again");
}

#[tokio::test]
async fn a_read_is_bounded_per_slot_and_takes_at_least_one() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let mut events: Vec<_> = (0..5).map(|_| event("same slot")).collect();
    for event in &mut events {
        event.content = Some(Content::json(format!("\"{}\"", "x".repeat(1_000))));
    }
    append(&mut conn, &events).await.unwrap();
    let slots: Vec<Slot> = Slot::all().collect();
    for (events, bytes, expected) in [
        (3, 1_000_000, vec![1, 2, 3]),
        (5, 1, vec![1]),
        (5, 2_000, vec![1, 2]),
        (5, 4_000, vec![1, 2, 3, 4]),
    ] {
        let limits = BatchLimits {
            events,
            bytes,
            total_bytes: i64::MAX,
            ..PLENTY
        };
        let batch = read_pending(&mut conn, &slots, limits, SOURCE)
            .await
            .unwrap();
        let ids: Vec<_> = batch.events.iter().map(|p| p.id).collect();
        assert_eq!(ids, expected, "{limits:?}");
    }
    let slot = read_all(&mut conn).await[0].slot;
    let others: Vec<Slot> = slots.into_iter().filter(|s| *s != slot).collect();
    let batch = read_pending(&mut conn, &others, PLENTY, SOURCE)
        .await
        .unwrap();
    assert!(batch.events.is_empty(), "only the slots asked for");
}

#[tokio::test]
async fn a_read_that_has_not_room_for_all_takes_the_first_slots_oldest_events() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let sized = |key: &str, bytes: usize| {
        let mut event = event(key);
        event.content = Some(Content::json(format!("\"{}\"", "x".repeat(bytes))));
        event
    };
    let events: Vec<_> = (0..10).map(|_| sized("large", 1_000)).collect();
    append(&mut conn, &events).await.unwrap();
    let events: Vec<_> = (0..10).map(|_| sized("small", 100)).collect();
    append(&mut conn, &events).await.unwrap();
    let slot_of = |id, pending: &[PendingEvent]| pending.iter().find(|p| p.id == id).unwrap().slot;
    let pending = read_all(&mut conn).await;
    let (large, small) = (slot_of(1, &pending), slot_of(11, &pending));
    assert_ne!(large, small);
    let both: Vec<i64> = (1..=20).collect();
    let two_large_and_small = [&both[..2], &both[10..]].concat();
    for (slots, bytes, total_bytes, expected) in [
        ([large, small], 1_000_000, 1, &both[..1]),
        ([small, large], 1_000_000, 1, &both[10..11]),
        ([large, small], 1_000_000, 3_000, &both[..3]),
        ([small, large], 1_000_000, 3_000, &two_large_and_small),
        ([large, small], 2_000, 1_000_000, &two_large_and_small),
        ([large, small], 1_000_000, 1_000_000, &both),
    ] {
        let limits = BatchLimits {
            bytes,
            total_bytes,
            ..PLENTY
        };
        let batch = read_pending(&mut conn, &slots, limits, SOURCE)
            .await
            .unwrap();
        let ids: Vec<_> = batch.events.iter().map(|p| p.id).collect();
        assert_eq!(ids, expected, "{limits:?}");
    }
}

#[tokio::test]
async fn an_event_that_is_too_large_is_not_read_and_nothing_behind_it_in_its_slot() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let mut events = ["k", "k", "k", "other", "k"].map(event);
    events[1].content = Some(Content::json(format!("\"{}\"", "x".repeat(3_000))));
    // Six times as long in words as in bytes, which is what a read would bring.
    let header = ("h".to_owned(), "\u{1}".repeat(500));
    events[4].headers = [header].into();
    append(&mut conn, &events).await.unwrap();
    let slots: Vec<Slot> = Slot::all().collect();
    let limits = BatchLimits {
        event_bytes: 2_999,
        ..PLENTY
    };
    let batch = read_pending(&mut conn, &slots, limits, SOURCE)
        .await
        .unwrap();
    let ids: Vec<i64> = batch.events.iter().map(|p| p.id).collect();
    assert_eq!(ids, [1, 4]);
    let oversized: Vec<_> = batch
        .oversized
        .iter()
        .map(|g| (g.id, &*g.topic, &*g.key))
        .collect();
    assert_eq!(oversized, [(2, "t", "k")]);
    let bytes = "select sum(bytes) from outbox_pending";
    assert_eq!(batch.bytes, fixture.number(bytes).await);
    assert_eq!(batch.orphans, []);

    fixture.run("delete from outbox_pending where id = 2").await;
    let batch = read_pending(&mut conn, &slots, limits, SOURCE)
        .await
        .unwrap();
    let ids: Vec<i64> = batch.events.iter().map(|p| p.id).collect();
    assert_eq!((&ids[..], batch.oversized[0].id), (&[1, 3, 4][..], 5));
    fixture.run("delete from outbox_event where id = 5").await;
    let batch = read_pending(&mut conn, &slots, limits, SOURCE)
        .await
        .unwrap();
    assert_eq!((batch.oversized.len(), batch.orphans[0].id), (0, 5));
}

#[tokio::test]
async fn later_events_of_a_dead_one_s_key_are_blocked() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(
        &mut conn,
        &[event("k"), event("k"), event("other"), event("k")],
    )
    .await
    .unwrap();
    fixture
        .run(
            "with moved as (delete from outbox_pending where id = 2 returning slot, id)
             insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, id, slot, 't', 'k', 'dead' from moved",
        )
        .await;
    let blocked = |read: Vec<PendingEvent>| {
        read.into_iter()
            .map(|p| (p.id, p.blocked_by))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        blocked(read_all(&mut conn).await),
        [(1, None), (3, None), (4, Some(2))]
    );
    fixture
        .run("update outbox_held set discarded_at = now()")
        .await;
    assert_eq!(
        blocked(read_all(&mut conn).await),
        [(1, None), (3, None), (4, None)]
    );
}

#[tokio::test]
async fn a_pending_id_without_its_event_is_told_and_leaves_the_queue() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a"), event("a"), event("a")])
        .await
        .unwrap();
    fixture.run("delete from outbox_event where id <> 2").await;
    let slots: Vec<Slot> = Slot::all().collect();
    let batch = read_pending(&mut conn, &slots, PLENTY, SOURCE)
        .await
        .unwrap();
    let ids: Vec<i64> = batch.orphans.iter().map(|orphan| orphan.id).collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(batch.events.len(), 1);

    // Written anew meanwhile, it is another row; and an event that exists stays, whoever says what.
    let mut orphans = batch.orphans;
    fixture
        .run("update outbox_pending set bytes = bytes where id = 3")
        .await;
    orphans.push(Orphan {
        slot: batch.events[0].slot,
        id: 2,
        version: batch.events[0].version,
    });
    assert_eq!(remove_orphans(&mut conn, &orphans).await.unwrap(), 1);
    let pending = "select string_agg(id::text, ' ' order by id) from outbox_pending";
    assert_eq!(fixture.text(pending).await, "2 3");
}

#[tokio::test]
async fn the_backlog_is_counted_to_its_bound() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    assert_eq!(backlog(&mut conn, 10).await.unwrap().oldest_seconds, None);
    let events: Vec<_> = (0..20).map(|n| event(&n.to_string())).collect();
    append(&mut conn, &events).await.unwrap();
    let found = backlog(&mut conn, 10).await.unwrap();
    assert_eq!(found.pending, 10);
    assert!(found.oldest_seconds.unwrap() >= 0.0);
}

#[tokio::test]
async fn a_database_no_relay_may_work_on_is_refused() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a"), event("b")]).await.unwrap();
    assert_eq!(check_fitness(&mut conn).await.unwrap(), None);

    fixture
        .run("update outbox_sample_hash set hash = hash + 1")
        .await;
    assert_eq!(
        check_fitness(&mut conn).await.unwrap(),
        Some(Unfit::ForeignHash)
    );
    fixture.run("delete from outbox_sample_hash").await;
    assert_eq!(
        check_fitness(&mut conn).await.unwrap(),
        Some(Unfit::NoSampleHash)
    );
    fixture
        .run("insert into outbox_sample_hash (key, hash) values ('k', hashtextextended('k', 0))")
        .await;

    fixture
        .run("alter table outbox_event alter id restart")
        .await;
    let behind = check_fitness(&mut conn).await.unwrap().unwrap();
    assert!(
        matches!(behind, Unfit::SequenceBehind { highest: 2, .. }),
        "{behind}"
    );
    fixture
        .run("select setval(pg_get_serial_sequence('outbox_event', 'id'), 2)")
        .await;
    assert_eq!(check_fitness(&mut conn).await.unwrap(), None);
}
