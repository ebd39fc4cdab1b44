//! Which published events a replay moves, in which steps.

use storage::Connection;
use storage::outbox::{ReplayBounds, append, replay, replayable, settle, verify};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::{Fixture, event, read_all, settled};

const NOON: OffsetDateTime = datetime!(2025-01-01 12:00 UTC);

/// Events 1 to 10, of the keys `a` and `b` in turn, 1 to 8 published at noon and each a minute
/// after the one before.
async fn published() -> (Fixture, Connection) {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let events: Vec<_> = (0..10)
        .map(|n| event(if n % 2 == 0 { "a" } else { "b" }))
        .collect();
    append(&mut conn, &events).await.unwrap();
    let read = read_all(&mut conn).await;
    let mut facts: Vec<_> = read[..8].iter().map(|p| settled(p, p.id)).collect();
    settle(&mut conn, &mut facts).await.unwrap();
    fixture
        .run(
            "update outbox_published
             set processed_at = '2025-01-01T12:00Z'::timestamptz + (id - 1) * interval '1 minute';
             update outbox_event set topic = 'u' where id = 3",
        )
        .await;
    (fixture, conn)
}

async fn pending(fixture: &Fixture) -> String {
    fixture
        .text("select coalesce(string_agg(id::text, ' ' order by id), '') from outbox_pending")
        .await
}

#[tokio::test]
async fn every_bound_must_hold() {
    let minute = |n: i64| Some(NOON + time::Duration::minutes(n));
    let text = |text: &str| Some(text.to_owned());
    let all = ReplayBounds::default();
    for (bounds, expected) in [
        (all.clone(), "1 2 3 4 5 6 7 8 9 10"),
        (
            ReplayBounds {
                from: minute(6),
                ..all.clone()
            },
            "7 8 9 10",
        ),
        (
            ReplayBounds {
                to: minute(2),
                ..all.clone()
            },
            "1 2 9 10",
        ),
        (
            ReplayBounds {
                key: text("b"),
                ..all.clone()
            },
            "2 4 6 8 9 10",
        ),
        (
            ReplayBounds {
                key: text("c"),
                ..all.clone()
            },
            "9 10",
        ),
        (
            ReplayBounds {
                topic: text("u"),
                ..all.clone()
            },
            "3 9 10",
        ),
        (
            ReplayBounds {
                topic: text("t"),
                key: text("a"),
                to: minute(5),
                ..all.clone()
            },
            "1 5 9 10",
        ),
        (
            ReplayBounds {
                from_id: Some(3),
                to_id: Some(4),
                ..all.clone()
            },
            "3 4 9 10",
        ),
        (
            ReplayBounds {
                key: text("a"),
                from_id: Some(4),
                to_id: Some(7),
                ..all.clone()
            },
            "5 7 9 10",
        ),
    ] {
        let (fixture, mut conn) = published().await;
        let told = replayable(&mut conn, &bounds, None, 100).await.unwrap();
        assert_eq!(pending(&fixture).await, "9 10", "a look changes nothing");
        let done = replay(&mut conn, &bounds, None, 100).await.unwrap();
        assert_eq!(told, done, "{bounds:?}");
        assert_eq!(pending(&fixture).await, expected, "{bounds:?}");
        assert!(verify(&mut conn, 10).await.unwrap().offenders.is_empty());
    }
}

#[tokio::test]
async fn it_goes_in_windows_lowest_first_and_ends() {
    for key in [None, Some("a".to_owned())] {
        let (fixture, mut conn) = published().await;
        let bounds = ReplayBounds {
            key,
            from: Some(NOON + time::Duration::minutes(2)),
            ..ReplayBounds::default()
        };
        let mut after = None;
        let mut moved = Vec::new();
        for _ in 0..20 {
            let window = replay(&mut conn, &bounds, after, 2).await.unwrap();
            moved.push(window.matching);
            if window.last.is_none() {
                break;
            }
            after = window.last;
        }
        let expected: &[i64] = match bounds.key {
            // 1 and 2 are too early.
            None => &[0, 2, 2, 2, 0],
            // 1 | 3 5 | 7, and 9, which is not published.
            Some(_) => &[1, 2, 0, 0],
        };
        assert_eq!(moved, expected);
        let queued_as_written =
            "select count(*) from outbox_pending p join outbox_event e using (id)
            where p.slot <> hashtextextended(e.key, 0) & 31
            or p.bytes <> octet_length(e.key || e.payload::text || e.headers::text)";
        assert_eq!(fixture.number(queued_as_written).await, 0);
    }
}

#[tokio::test]
async fn p2_a_late_mark_of_the_first_publication_does_not_swallow_a_replay() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(&mut conn, &[event("a"), event("a")]).await.unwrap();
    let first: Vec<_> = read_all(&mut conn)
        .await
        .iter()
        .map(|p| settled(p, p.id))
        .collect();
    settle(&mut conn, &mut first.clone()).await.unwrap();
    replay(&mut conn, &ReplayBounds::default(), None, 100)
        .await
        .unwrap();
    assert_eq!(settle(&mut conn, &mut first.clone()).await.unwrap(), 0);
    let again = read_all(&mut conn).await;
    assert_eq!(again.iter().map(|p| p.id).collect::<Vec<_>>(), [1, 2]);
    let mut second: Vec<_> = again.iter().map(|p| settled(p, 10 + p.id)).collect();
    assert_eq!(settle(&mut conn, &mut second).await.unwrap(), 2);
}
