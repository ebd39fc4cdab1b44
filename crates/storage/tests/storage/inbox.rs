//! The inbox, its fence, and dead letters.

use std::collections::HashSet;
use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use domain::EventId;
use storage::inbox::dead_letters::{
    Amount, Cause, DeadLetter, held_before, held_keys, hold, unsettled_of_key,
};
use storage::inbox::retention::{Sweep, sweep};
use storage::inbox::{Progress, Stream, advance, begin_at, fence, follow_copies, progress, record};
use storage::lease::{MemberId, claim, ensure_units, release, renew};
use uuid::Uuid;

use crate::support::{Fixture, TTL};

fn stream() -> Stream {
    Stream {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        partition: 0,
    }
}

#[tokio::test]
async fn the_fence_opens_for_the_owner_at_the_expected_offset_only() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let (stream, me, other) = (stream(), MemberId::generate(), MemberId::generate());
    let (topic_id, another) = (Uuid::now_v7(), Uuid::now_v7());
    let scope = Stream::lease_scope("g", "t");
    assert_eq!(progress(&mut conn, &stream).await.unwrap(), None);
    begin_at(&mut conn, &stream, 5, Some(topic_id))
        .await
        .unwrap();
    begin_at(&mut conn, &stream, 9, None).await.unwrap();
    ensure_units(&mut conn, &scope, 1).await.unwrap();
    renew(&mut conn, &scope, me, TTL).await.unwrap();
    let epoch = claim(&mut conn, &scope, me, &[(0, 0)]).await.unwrap()[0].epoch;

    let mut opens = async |from: i64, owner, epoch| {
        fence(
            &mut conn,
            &stream,
            (from, from + 9),
            Some(topic_id),
            owner,
            epoch,
        )
        .await
        .unwrap()
        .is_some()
    };
    assert!(opens(5, me, epoch).await);
    assert!(!opens(6, me, epoch).await);
    assert!(!opens(5, other, epoch).await);
    assert!(!opens(5, me, epoch - 1).await);
    for wrong in [Some(another), None] {
        let of_another = fence(&mut conn, &stream, (5, 9), wrong, me, epoch).await;
        assert_eq!(of_another.unwrap(), None);
    }

    let there = Progress {
        next_offset: 8,
        last_event_id: Some(EventId::generate()),
        topic_id: Some(topic_id),
    };
    advance(&mut conn, &stream, there).await.unwrap();
    assert_eq!(progress(&mut conn, &stream).await.unwrap(), Some(there));
    let again = fence(&mut conn, &stream, (5, 9), Some(topic_id), me, epoch)
        .await
        .unwrap();
    assert_eq!(again, None);
    release(&mut conn, &scope, me, &[0]).await.unwrap();
    let after = fence(&mut conn, &stream, (8, 9), Some(topic_id), me, epoch)
        .await
        .unwrap();
    assert_eq!(after, None);
}

#[tokio::test]
async fn p5_an_event_is_new_once_per_group() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let ids: Vec<EventId> = (0..4).map(|_| EventId::generate()).collect();
    let first = record(&mut conn, &stream(), &[(ids[0], 1), (ids[1], 2)])
        .await
        .unwrap();
    assert_eq!(first, HashSet::from([ids[0], ids[1]]));
    let elsewhere = Stream {
        partition: 3,
        ..stream()
    };
    let copies = [(ids[1], 70), (ids[2], 71)];
    let second = record(&mut conn, &elsewhere, &copies).await.unwrap();
    assert_eq!(second, HashSet::from([ids[2]]));
    follow_copies(&mut conn, &elsewhere, &copies[..1])
        .await
        .unwrap();
    let places =
        "select string_agg(partition || '/' || \"offset\", ' ' order by event_id) from inbox";
    assert_eq!(fixture.text(places).await, "0/1 3/70 3/71");
    let (older, newer) = ((copies[0].0, 50), (copies[1].0, 90));
    follow_copies(&mut conn, &elsewhere, &[older, newer])
        .await
        .unwrap();
    assert_eq!(fixture.text(places).await, "0/1 3/70 3/90");
    let group = Stream {
        group: "another".to_owned(),
        ..stream()
    };
    assert_eq!(record(&mut conn, &group, &copies).await.unwrap().len(), 2);
}

#[tokio::test]
async fn p5_a_row_that_is_swept_while_a_copy_of_its_event_arrives_is_there_again() {
    let fixture = Fixture::new().await;
    let (mut consumer, mut cleaner) = (fixture.connect().await, fixture.connect().await);
    let event = [(EventId::generate(), 7)];
    record(&mut consumer, &stream(), &[(event[0].0, 1)])
        .await
        .unwrap();
    let age = "update inbox set processed_at = now() - interval '2 hours'";
    fixture.run(age).await;
    consumer.batch_execute("begin").await.unwrap();
    let new = record(&mut consumer, &stream(), &event).await.unwrap();
    assert_eq!(new, HashSet::new());
    let part = Sweep {
        group: "g",
        topic: "t",
        after: None,
        limit: 100,
        older_than: Duration::from_hours(1),
        log_starts: &[(0, 5)],
    };
    // Nothing of it is locked yet.
    assert_eq!(sweep(&mut cleaner, &part).await.unwrap().deleted, 1);
    follow_copies(&mut consumer, &stream(), &event)
        .await
        .unwrap();
    consumer.batch_execute("commit").await.unwrap();
    let there = "select count(*) || ' at ' || max(\"offset\") from inbox";
    assert_eq!(fixture.text(there).await, "1 at 7");
    // The other way round: what a batch has followed stays.
    fixture.run(age).await;
    assert_eq!(sweep(&mut cleaner, &part).await.unwrap().deleted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_partitions_with_copies_of_the_same_events_do_not_deadlock() {
    let fixture = Fixture::new().await;
    let ids: Vec<(EventId, i64)> = (0..200).map(|n| (EventId::generate(), n)).collect();
    let mut conn = fixture.connect().await;
    for newest_first in ids.iter().rev() {
        record(&mut conn, &stream(), &[*newest_first])
            .await
            .unwrap();
    }
    let work = |partition: i32| {
        let (database, mut ids) = (fixture.database.clone(), ids.clone());
        if partition == 1 {
            ids.reverse();
        }
        tokio::spawn(async move {
            let session = storage::Session::leased("test", TTL);
            let mut conn = database.connect(&session).await.unwrap();
            // The planner may choose either, and one walks the table, the other the ids.
            conn.batch_execute(match partition {
                0 => "set enable_nestloop = off; set enable_mergejoin = off",
                _ => "set enable_hashjoin = off; set enable_mergejoin = off",
            })
            .await
            .unwrap();
            let stream = Stream {
                partition,
                ..stream()
            };
            for _ in 0..100 {
                diesel_async::AsyncConnection::transaction(&mut conn, async |conn| {
                    record(conn, &stream, &ids).await?;
                    follow_copies(conn, &stream, &ids).await
                })
                .await
                .unwrap();
            }
        })
    };
    let (one, two) = (work(0), work(1));
    one.await.unwrap();
    two.await.unwrap();
}

#[tokio::test]
async fn any_bytes_can_be_held_and_hold_back_their_key() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let key = vec![0_u8, 255, 1];
    let huge = vec![7_u8; 100_000];
    let headers = [
        ("none", None),
        ("h\0", Some(vec![0, 200])),
        ("none", Some(vec![])),
    ];
    let headers = headers.map(|(name, value)| (name.as_bytes().to_vec(), value));
    let letter = |(offset, key)| DeadLetter {
        offset,
        event_id: None,
        key,
        value: Some(vec![0; 3]),
        headers: headers[..usize::try_from(offset - 1).unwrap().min(3)].to_vec(),
        omitted_bytes: None,
        cause: Cause::Dead,
        reason: "a NUL: \0".to_owned(),
        attempts: 1,
    };
    let large = Some(huge.clone());
    let keys = [Some(key.clone()), None, large.clone(), large.clone(), large];
    let letters: Vec<DeadLetter> = (1..).zip(keys).map(letter).collect();
    let mut put = async |letters| hold(&mut conn, &stream(), letters).await.unwrap();
    assert_eq!(put(&letters[..2]).await, None);
    assert_eq!(put(&letters).await, Some(1), "two are held already");
    let rows = held_before(&mut conn, &stream(), (1, 5)).await.unwrap();
    let stored: Vec<_> = rows
        .into_iter()
        .map(|row| {
            (
                row.key,
                row.header_names
                    .into_iter()
                    .zip(row.header_values)
                    .collect(),
            )
        })
        .collect();
    let expected = letters.iter().map(|l| (l.key.clone(), l.headers.clone()));
    assert_eq!(stored, expected.collect::<Vec<_>>());
    let free = b"free".as_slice();
    let mut read = async |key, records, bytes| {
        let (stream, amount) = (stream(), Amount { records, bytes });
        let read = unsettled_of_key(&mut conn, &stream.group, &stream.topic, key, amount).await;
        let read = read.unwrap();
        read.iter().map(|stored| stored.offset).collect::<Vec<_>>()
    };
    assert_eq!(read(&key, 10, 1_000).await, [1]);
    assert_eq!(read(&huge, 10, 1_000).await, [3, 4, 5]);
    assert_eq!(read(&huge, 2, 1_000).await, [3, 4]);
    assert_eq!(read(&huge, 10, 3).await, [3]);
    assert_eq!(read(&huge, 10, 4).await, [3, 4]);
    let held = held_keys(&mut conn, &stream(), &[&key, free, &huge])
        .await
        .unwrap();
    assert_eq!(held, HashSet::from([key, huge]));
    fixture
        .run("update inbox_dead_letter set settled_at = now(), settled_as = 'discarded'")
        .await;
    assert!(
        held_keys(&mut conn, &stream(), &[free])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        fixture
            .number("select count(*) from inbox_dead_letter")
            .await,
        5
    );
}
