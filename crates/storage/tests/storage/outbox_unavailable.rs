//! Events of partitions that cannot be written: which groups of them there are, and their way back.

use domain::Slot;
use storage::Connection;
use storage::lease::{MemberId, claim, ensure_units, renew};
use storage::outbox::{
    Destination, Hold, HoldCause, MoveFrom, UnavailableGroup, append, hold, move_back,
    read_pending, unavailable_groups,
};

use crate::support::{Fixture, PLENTY, SOURCE, TTL, event, read_all};

const SCOPE: &str = "outbox-relay";

fn to(partition_count: i32, partition: i32) -> Destination {
    Destination {
        partition_count,
        partition,
    }
}

/// Nine events of key `k`, and a member that owns their slot under epoch 1.
async fn nine() -> (Fixture, Connection, MemberId, Slot) {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &["k"; 9].map(event)).await.unwrap();
    let slot = read_all(&mut conn).await[0].slot;
    let member = MemberId::generate();
    ensure_units(&mut conn, SCOPE, 32).await.unwrap();
    renew(&mut conn, SCOPE, member, TTL).await.unwrap();
    let unit = (i32::from(slot.number()), 0);
    claim(&mut conn, SCOPE, member, &[unit]).await.unwrap();
    (fixture, conn, member, slot)
}

/// Holds pending events as unavailable; returns how many were.
async fn make_unavailable(
    conn: &mut Connection,
    member: MemberId,
    epoch: i64,
    destinations: &[(i64, Destination)],
) -> i64 {
    let mut holds = Vec::new();
    for event in read_all(conn).await {
        let found = destinations.iter().find(|(id, _)| *id == event.id);
        if let Some((_, destination)) = found {
            holds.push(Hold {
                slot: event.slot,
                epoch,
                id: event.id,
                version: event.version,
                topic: event.event.topic,
                key: event.event.key,
                destination: *destination,
                cause: HoldCause::Unavailable,
                error: Some("mute".to_owned()),
                attempts: 0,
            });
        }
    }
    let held = hold(conn, SCOPE, member, &holds).await.unwrap();
    held.iter().map(|held| held.events).sum()
}

fn found(groups: &[UnavailableGroup]) -> Vec<(i32, i32, i64)> {
    let group = |group: &UnavailableGroup| {
        let to = group.destination;
        (to.partition_count, to.partition, group.lowest)
    };
    groups.iter().map(group).collect()
}

fn from(destinations: &[Destination], lowest: i64) -> MoveFrom<'_> {
    MoveFrom {
        topic: "t",
        destinations,
        lowest,
    }
}

fn several() -> [(i64, Destination); 5] {
    [
        (3, to(6, 2)),
        (4, to(6, 1)),
        (5, to(6, 2)),
        (7, to(4, 3)),
        (8, Destination::NOWHERE),
    ]
}

#[tokio::test]
async fn a_read_tells_the_groups_of_the_slots_and_topics_that_it_found() {
    let (fixture, mut conn, member, slot) = nine().await;
    assert_eq!(make_unavailable(&mut conn, member, 1, &several()).await, 5);
    let expected = [(0, -1, 8), (4, 3, 7), (6, 1, 4), (6, 2, 3)];
    let all: Vec<Slot> = Slot::all().collect();
    let groups = unavailable_groups(&mut conn, &all).await.unwrap();
    assert_eq!(found(&groups), expected);
    assert!(groups.iter().all(|g| g.slot == slot && g.topic == "t"));

    let batch = read_pending(&mut conn, &all, PLENTY, SOURCE).await.unwrap();
    let ids: Vec<i64> = batch.events.iter().map(|event| event.id).collect();
    assert_eq!(ids, [1, 2, 6, 9]);
    assert!(batch.events.iter().all(|event| event.blocked_by.is_none()));
    assert_eq!(batch.groups, groups);

    // Where nothing of the topic is pending, nobody asks.
    fixture.run("delete from outbox_pending").await;
    let mut other = event("k");
    other.topic = "other".to_owned();
    append(&mut conn, &[other]).await.unwrap();
    let batch = read_pending(&mut conn, &all, PLENTY, SOURCE).await.unwrap();
    assert_eq!((batch.events.len(), batch.groups), (1, vec![]));
}

#[tokio::test]
async fn events_go_back_lowest_first_and_under_the_lease_alone() {
    let (fixture, mut conn, member, slot) = nine().await;
    assert_eq!(
        make_unavailable(&mut conn, member, 0, &several()).await,
        0,
        "another epoch"
    );
    make_unavailable(&mut conn, member, 1, &several()).await;
    let bytes = "select string_agg(bytes::text, ' ' order by id) from outbox_pending";
    let before = fixture.text(bytes).await;
    let stranger = MemberId::generate();
    for (of, epoch) in [(stranger, 1), (member, 0), (member, 2)] {
        let there = [to(6, 2)];
        let moved = move_back(&mut conn, SCOPE, of, (slot, epoch), from(&there, 1), 10);
        assert_eq!(moved.await.unwrap(), 0);
    }
    let mut back = async |destinations: &[Destination], limit| {
        let from = from(destinations, 3);
        move_back(&mut conn, SCOPE, member, (slot, 1), from, limit)
            .await
            .unwrap()
    };
    assert_eq!(back(&[to(6, 2)], 1).await, 1);
    let pending = "select string_agg(id::text, ' ' order by id) from outbox_pending";
    assert_eq!(fixture.text(pending).await, "1 2 3 6 9");
    assert_eq!(back(&[to(4, 3), Destination::NOWHERE], 1).await, 1);
    assert_eq!(fixture.text(pending).await, "1 2 3 6 7 9");
    assert_eq!(back(&[to(6, 1), to(6, 2), to(6, 5)], 10).await, 2);
    assert_eq!(back(&[Destination::NOWHERE], 10).await, 1);
    assert_eq!(back(&[Destination::NOWHERE], 10).await, 0);
    assert_eq!(fixture.number("select count(*) from outbox_held").await, 0);
    // As the trigger counted, without a look at the events.
    let each = before.split(' ').next().unwrap();
    assert_eq!(fixture.text(bytes).await, [each; 9].join(" "));
}

#[tokio::test]
async fn a_dead_event_blocks_its_key_and_an_unavailable_one_does_not() {
    let (fixture, mut conn, member, _) = nine().await;
    make_unavailable(&mut conn, member, 1, &[(2, to(6, 1)), (5, to(6, 1))]).await;
    fixture
        .run("update outbox_held set cause = 'dead' where id = 5")
        .await;
    let blocked: Vec<(i64, Option<i64>)> = read_all(&mut conn)
        .await
        .iter()
        .map(|event| (event.id, event.blocked_by))
        .collect();
    let expected = [
        (1, None),
        (3, None),
        (4, None),
        (6, Some(5)),
        (7, Some(5)),
        (8, Some(5)),
        (9, Some(5)),
    ];
    assert_eq!(blocked, expected);
}

/// A key with very many unavailable events costs each statement no more than one with few.
#[tokio::test]
async fn a_hot_key_with_many_unavailable_events_costs_nothing_more() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
             select gen_random_uuid(), 't', 'hot', 'T', '{}' from generate_series(1, 100000);
             with moved as (delete from outbox_pending where id <= 99000 returning id, slot, bytes)
             insert into outbox_held (id, slot, topic, key, cause, partition_count, partition, bytes)
             select id, slot, 't', 'hot', 'unavailable', 6, 1, bytes from moved",
        )
        .await;
    let mut conn = fixture.connect().await;
    let started = std::time::Instant::now();
    let batch = read_pending(&mut conn, &Slot::all().collect::<Vec<_>>(), PLENTY, SOURCE)
        .await
        .unwrap();
    assert_eq!(found(&batch.groups), [(6, 1, 1)]);
    assert_eq!(batch.events.len(), 1_000);
    // Quadratic, it took minutes.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}
