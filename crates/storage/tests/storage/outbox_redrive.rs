//! Letting held keys go: what moves, what stays, and who waits for whom.

use domain::EventState;
use storage::StorageError;
use storage::outbox::{
    Discarded, HeldFilter, Redriven, TopicKey, append, dead_keys, discard, discardable, held,
    held_event, redrivable, redrive, verify,
};

use crate::support::{Fixture, event};

fn key(key: &str) -> TopicKey {
    TopicKey {
        topic: "t".to_owned(),
        key: key.to_owned(),
    }
}

/// Events 1 to 8 of key `k`, all held as `causes` says (`d`, `b`, `u`), and event 9 of key `other`,
/// dead.
async fn held_as(causes: &str) -> Fixture {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let mut events = vec![event("k"); 8];
    for event in &mut events {
        event.event_id = domain::EventId::generate();
    }
    events.push(event("other"));
    append(&mut conn, &events).await.unwrap();
    for (id, cause) in (1..).zip(format!("{causes}d").chars()) {
        let (cause, blocked_by) = match cause {
            'd' => ("dead", "null"),
            'b' => ("blocked", "1"),
            _ => ("unavailable", "null"),
        };
        fixture
            .run(&format!(
                "with moved as (delete from outbox_pending where id = {id} returning slot, id, bytes)
                 insert into outbox_held (bytes, id, slot, topic, key, cause, blocked_by)
                 select m.bytes, m.id, m.slot, e.topic, e.key, '{cause}', {blocked_by}
                 from moved m join outbox_event e using (id)"
            ))
            .await;
    }
    fixture
}

/// Where the nine events are: the first letter of each one's state.
async fn states(fixture: &Fixture) -> String {
    fixture
        .text("select string_agg(case state when 'discarded' then 'x' else left(state, 1) end, '' order by id) from outbox")
        .await
}

#[tokio::test]
async fn redrive_moves_the_dead_and_those_behind_and_no_other_key() {
    let fixture = held_as("dbbbdbuu").await;
    let mut conn = fixture.connect().await;
    let expected = Redriven {
        dead: 2,
        blocked: 4,
    };
    assert_eq!(
        redrivable(&mut conn, &[key("k")]).await.unwrap(),
        expected,
        "told before"
    );
    assert_eq!(
        states(&fixture).await,
        "dbbbdbuud",
        "a look changes nothing"
    );
    assert_eq!(redrive(&mut conn, &[key("k")]).await.unwrap(), expected);
    assert_eq!(states(&fixture).await, "ppppppuud");
    assert_eq!(
        redrive(&mut conn, &[key("k")]).await.unwrap(),
        Redriven::default(),
        "once"
    );
    let queued_as_written = "select count(*) from outbox_pending p join outbox_event e using (id)
        where p.slot = hashtextextended(e.key, 0) & 31
        and p.bytes = octet_length(e.key || e.payload::text || e.headers::text)";
    assert_eq!(fixture.number(queued_as_written).await, 6);
    assert!(verify(&mut conn, 10).await.unwrap().offenders.is_empty());
}

#[tokio::test]
async fn discard_frees_what_waits_for_nothing_else() {
    for (causes, only, after, expected) in [
        ("dbbbbbbb", None, "xpppppppd", (1, 7)),
        // All dead ones of the key.
        ("dbbdbbbb", None, "xppxppppd", (2, 6)),
        // What is behind another dead one stays with it.
        ("dbbdbbbb", Some(1), "xppdbbbbd", (1, 2)),
        ("dbbdbbbb", Some(4), "dbbxbbbbd", (1, 0)),
        // An id that is not dead is not given up.
        ("dbbdbbbb", Some(2), "dbbdbbbbd", (0, 0)),
        // Unavailable ones stay, and hold back what the relay then blocks behind them.
        ("dubbuubb", None, "xuppuuppd", (1, 4)),
    ] {
        let fixture = held_as(causes).await;
        let mut conn = fixture.connect().await;
        let expected = Discarded {
            discarded: expected.0,
            returned: expected.1,
        };
        let keys = [key("k")];
        let case = format!("{causes}, {only:?}");
        assert_eq!(
            discardable(&mut conn, &keys, only).await.unwrap(),
            expected,
            "{case}"
        );
        assert_eq!(
            discard(&mut conn, &keys, only).await.unwrap(),
            expected,
            "{case}"
        );
        assert_eq!(states(&fixture).await, after, "{case}");
        let found = verify(&mut conn, 10).await.unwrap();
        assert_eq!((found.events, found.offenders), (9, vec![]), "{case}");
        // Whoever stays waits for somebody who does too.
        let waits_for_nobody = "select count(*) from outbox_held h where cause = 'blocked' and not exists
            (select from outbox_held d where d.id = h.blocked_by and d.discarded_at is null and d.id < h.id)";
        assert_eq!(fixture.number(waits_for_nobody).await, 0, "{case}");
    }
}

#[tokio::test]
async fn held_keys_and_events_are_found() {
    let fixture = held_as("dbbbbbbu").await;
    let mut conn = fixture.connect().await;
    assert_eq!(
        dead_keys(&mut conn, None, 10).await.unwrap(),
        [key("k"), key("other")]
    );
    assert_eq!(dead_keys(&mut conn, None, 1).await.unwrap(), [key("k")]);
    assert_eq!(
        dead_keys(&mut conn, Some(&key("k")), 10).await.unwrap(),
        [key("other")]
    );

    let ids = async |conn: &mut storage::Connection, filter: HeldFilter, limit| {
        let found = held(conn, &filter, limit).await.unwrap();
        found.iter().map(|h| h.id).collect::<Vec<_>>()
    };
    let all = HeldFilter::default();
    assert_eq!(
        ids(&mut conn, all.clone(), 99).await,
        (1..=9).collect::<Vec<_>>()
    );
    assert_eq!(ids(&mut conn, all, 2).await, [1, 2]);
    let of_state = |state| HeldFilter {
        state: Some(state),
        ..HeldFilter::default()
    };
    assert_eq!(ids(&mut conn, of_state(EventState::Dead), 99).await, [1, 9]);
    assert_eq!(
        ids(&mut conn, of_state(EventState::Unavailable), 99).await,
        [8]
    );
    let of_key = HeldFilter {
        topic: Some("t".to_owned()),
        key: Some("other".to_owned()),
        ..HeldFilter::default()
    };
    assert_eq!(ids(&mut conn, of_key, 99).await, [9]);

    discard(&mut conn, &[key("other")], None).await.unwrap();
    assert_eq!(ids(&mut conn, of_state(EventState::Dead), 99).await, [1]);
    assert_eq!(
        ids(&mut conn, of_state(EventState::Discarded), 99).await,
        [9]
    );
    let event_id: uuid::Uuid = fixture
        .text("select event_id::text from outbox_event where id = 9")
        .await
        .parse()
        .unwrap();
    let found = held_event(&mut conn, event_id.into()).await.unwrap();
    assert_eq!(found.unwrap().state, EventState::Discarded);
    let unknown = held_event(&mut conn, domain::EventId::generate()).await;
    assert_eq!(unknown.unwrap(), None);
}

#[tokio::test]
async fn of_several_held_events_with_one_event_id_the_one_to_decide_about_is_found() {
    for (causes, discarded, found) in [
        ("dbbbdbbb", 1, (5, EventState::Dead)),
        ("ubbbdbbb", 5, (1, EventState::Unavailable)),
        ("ubbbdbbb", 0, (5, EventState::Dead)),
    ] {
        let fixture = held_as(causes).await;
        let mut conn = fixture.connect().await;
        fixture
            .run(&format!(
                "update outbox_event set event_id = (select event_id from outbox_event where id = 1)
                 where id = 5;
                 update outbox_held set discarded_at = now() where id = {discarded}"
            ))
            .await;
        let event_id: uuid::Uuid = fixture
            .text("select event_id::text from outbox_event where id = 1")
            .await
            .parse()
            .unwrap();
        let event = held_event(&mut conn, event_id.into()).await.unwrap();
        let event = event.unwrap();
        assert_eq!((event.id, event.state), found, "{causes}");
    }
}

#[tokio::test]
async fn a_cause_that_nobody_writes_is_named_with_its_column() {
    let fixture = held_as("dbbbbbbb").await;
    let mut conn = fixture.connect().await;
    fixture
        .run(
            "alter table outbox_held drop constraint outbox_held_cause;
             update outbox_held set cause = 'tired' where id = 2",
        )
        .await;
    let error = held(&mut conn, &HeldFilter::default(), 99)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StorageError::Unreadable { column: "outbox_held.cause", reason }
            if reason.starts_with(r#""tired" is none of "#)),
        "{error}"
    );
}

#[tokio::test]
async fn a_decision_waits_for_the_key_and_changes_nothing_when_it_waits_in_vain() {
    let fixture = held_as("dbbbbbbb").await;
    let mut conn = fixture.connect().await;
    let mut other = fixture.connect().await;
    fixture
        .run("begin; select pg_advisory_xact_lock(hashtextextended('t' || chr(31) || 'k', 7))")
        .await;
    redrive(&mut conn, &[key("k")]).await.unwrap_err();
    discard(&mut conn, &[key("k")], None).await.unwrap_err();
    let another_key = redrive(&mut other, &[key("other")]).await.unwrap();
    assert_eq!(another_key.dead, 1, "another key is not held up");
    fixture.run("commit").await;
    assert_eq!(states(&fixture).await, "dbbbbbbbp");
    assert_eq!(redrive(&mut conn, &[key("k")]).await.unwrap().dead, 1);
}
