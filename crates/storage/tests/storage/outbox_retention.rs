//! What retention deletes, and above all what it does not.

use std::time::Duration;

use storage::Connection;
use storage::outbox::{Cleaned, Done, ReplayBounds, append, clean, replay, settle, verify};

use crate::support::{Fixture, event, read_all, settled};

const DAY: Duration = Duration::from_hours(24);

/// Cleans to the end of a pass; returns what the steps deleted.
async fn pass(conn: &mut Connection, done: Done, size: i64) -> Vec<i64> {
    let mut after = None;
    let mut deleted = Vec::new();
    loop {
        let cleaned = clean(conn, done, DAY, after, size).await.unwrap().unwrap();
        deleted.push(cleaned.deleted);
        if cleaned.last.is_none() {
            return deleted;
        }
        assert!(cleaned.last > after, "it goes on");
        after = cleaned.last;
    }
}

/// Events 1 to `events`, each published.
async fn published(events: i64) -> (Fixture, Connection) {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let written: Vec<_> = (0..events).map(|n| event(&n.to_string())).collect();
    append(&mut conn, &written).await.unwrap();
    let mut facts: Vec<_> = read_all(&mut conn)
        .await
        .iter()
        .map(|p| settled(p, p.id))
        .collect();
    settle(&mut conn, &mut facts).await.unwrap();
    (fixture, conn)
}

const AGE: &str = "update outbox_published set processed_at = now() - interval '25 hours' where id";
const AGE_EVENTS: &str =
    "update outbox_event set created_at = now() - interval '26 hours' where id";

async fn left(fixture: &Fixture) -> String {
    fixture
        .text("select string_agg(id || ':' || state, ' ' order by id) from outbox")
        .await
}

#[tokio::test]
async fn the_old_go_and_the_young_stay_wherever_they_lie() {
    let (fixture, mut conn) = published(10).await;
    // 1 and 2 were replayed lately: they are young, and what lies behind them is not.
    fixture
        .run(&format!("{AGE} between 3 and 8; {AGE_EVENTS} <= 8;"))
        .await;
    assert_eq!(pass(&mut conn, Done::Published, 2).await, [0, 2, 2, 2, 0]);
    assert_eq!(
        left(&fixture).await,
        "1:published 2:published 9:published 10:published"
    );
    assert!(verify(&mut conn, 9).await.unwrap().offenders.is_empty());
    // The next pass begins at the front again.
    fixture.run(&format!("{AGE} <= 2")).await;
    assert_eq!(pass(&mut conn, Done::Published, 2).await, [2, 0]);
    assert_eq!(left(&fixture).await, "9:published 10:published");
}

#[tokio::test]
async fn a_pass_ends_where_events_are_too_young_to_be_old() {
    let (fixture, mut conn) = published(1_000).await;
    fixture
        .run(&format!("{AGE} <= 20; {AGE_EVENTS} <= 20;"))
        .await;
    let steps = pass(&mut conn, Done::Published, 10).await;
    assert_eq!(steps, [10, 10, 0], "and not a hundred steps");
}

#[tokio::test]
async fn what_is_pending_or_held_stays_and_what_is_discarded_goes() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    append(
        &mut conn,
        &[event("a"), event("b"), event("c"), event("c"), event("d")],
    )
    .await
    .unwrap();
    let hold = "with moved as (delete from outbox_pending where id > 1 returning slot, id)
        insert into outbox_held (bytes, id, slot, topic, key, cause, held_at, discarded_at)
        select 10, m.id, m.slot, e.topic, e.key,
               case m.id when 4 then 'blocked' when 5 then 'unavailable' else 'dead' end,
               now() - interval '9 days', case m.id when 2 then now() - interval '25 hours' end
        from moved m join outbox_event e using (id)";
    fixture.run(&format!("{hold}; {AGE_EVENTS} > 0")).await;
    assert_eq!(pass(&mut conn, Done::Published, 10).await, [0]);
    assert_eq!(pass(&mut conn, Done::Discarded, 10).await, [1, 0]);
    assert_eq!(
        left(&fixture).await,
        "1:pending 3:dead 4:blocked 5:unavailable"
    );
    fixture
        .run("update outbox_held set discarded_at = now() - interval '23 hours' where id = 3")
        .await;
    assert_eq!(pass(&mut conn, Done::Discarded, 10).await, [0, 0]);
}

#[tokio::test]
async fn what_is_replayed_meanwhile_stays_and_is_not_waited_for() {
    let (fixture, mut conn) = published(3).await;
    fixture.run(&format!("{AGE} > 0; {AGE_EVENTS} > 0;")).await;
    let mut replaying = fixture.connect().await;
    diesel_async::SimpleAsyncConnection::batch_execute(&mut replaying, "begin")
        .await
        .unwrap();
    let bounds = ReplayBounds {
        to_id: Some(2),
        ..ReplayBounds::default()
    };
    replay(&mut replaying, &bounds, None, 10).await.unwrap();
    // A lock that is waited for would run into the session's limit, an error.
    assert_eq!(pass(&mut conn, Done::Published, 10).await, [1, 0]);
    diesel_async::SimpleAsyncConnection::batch_execute(&mut replaying, "commit")
        .await
        .unwrap();
    assert_eq!(left(&fixture).await, "1:pending 2:pending");
    assert_eq!(pass(&mut conn, Done::Published, 10).await, [0]);
}

#[tokio::test]
async fn one_cleans_at_a_time() {
    let (fixture, mut conn) = published(1).await;
    fixture
        .run(
            "begin; select pg_advisory_xact_lock(
                hashtextextended('outbox retention ' || current_schema(), 0))",
        )
        .await;
    let busy = clean(&mut conn, Done::Published, DAY, None, 10).await;
    assert_eq!(busy.unwrap(), None);
    fixture.run("commit").await;
    let free = clean(&mut conn, Done::Published, DAY, None, 10).await;
    let nothing = Cleaned {
        deleted: 0,
        last: None,
    };
    assert_eq!(free.unwrap(), Some(nothing));
}
