//! Whoever inserts into `outbox_event`, and however, is a writer: the event is queued, once.

use domain::Content;
use storage::outbox::append;

use crate::support::{Fixture, event, read_all};

const QUEUED_ONCE: &str = "\
select count(*) from outbox_event e where 1 = (
    select count(*) from outbox_pending p
    where p.id = e.id and p.slot = (hashtextextended(e.key, 0) & 31))";

async fn assert_queued(fixture: &Fixture, events: i64) {
    assert_eq!(
        fixture.number("select count(*) from outbox_event").await,
        events
    );
    assert_eq!(
        fixture.number("select count(*) from outbox_pending").await,
        events
    );
    assert_eq!(fixture.number(QUEUED_ONCE).await, events);
}

#[tokio::test]
async fn events_keep_the_order_and_the_bytes_they_were_appended_with() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let mut events: Vec<_> = (0..50).map(|_| event("one key")).collect();
    events[7].content = Some(Content::json("{ \"spaces\" :  [1,2] }".to_owned()));
    append(&mut conn, &events).await.unwrap();
    let read = read_all(&mut conn).await;
    let ids: Vec<_> = read.iter().map(|p| p.event.event_id).collect();
    let appended: Vec<_> = events.iter().map(|e| e.event_id).collect();
    assert_eq!(ids, appended);
    assert_eq!(read[7].event.content, events[7].content);
    assert_eq!(read[7].event.headers, events[7].headers);
    assert_queued(&fixture, 50).await;
}

#[tokio::test]
async fn headers_of_any_json_go_out_as_text() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            r#"insert into outbox_event (event_id, topic, key, event_type, payload, headers)
               select gen_random_uuid(), 't', 'k', 'T', '{}', headers
               from (values (1, '{"text": "\"ä\"", "number": 1.10, "null": null}'::jsonb),
                   (2, jsonb_build_object('large', 1e400)),
                   (3, jsonb_build_object('deep',
                       (repeat('[', 1000) || repeat(']', 1000))::jsonb))) h(n, headers)
               order by n"#,
        )
        .await;
    let mut conn = fixture.connect().await;
    let read = read_all(&mut conn).await;
    let header = |place: usize, name: &str| read[place].event.headers[name].clone();
    assert_eq!(header(0, "text"), "\"ä\"");
    assert_eq!(header(0, "number"), "1.10");
    assert_eq!(header(0, "null"), "null");
    assert_eq!(header(1, "large"), format!("1{}", "0".repeat(400)));
    assert_eq!(header(2, "deep").len(), 2_000);
}

#[tokio::test]
async fn the_first_and_the_last_year_are_read() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into outbox_event (event_id, topic, key, event_type, payload, created_at)
             values (gen_random_uuid(), 't', 'k', 'T', '{}', '0001-01-01 00:00 UTC'),
                    (gen_random_uuid(), 't', 'k', 'T', '{}', '9999-12-31 23:59:59.999999 UTC')",
        )
        .await;
    let mut conn = fixture.connect().await;
    let read = read_all(&mut conn).await;
    let years: Vec<i32> = read.iter().map(|p| p.event.created_at.year()).collect();
    assert_eq!(years, [1, 9999]);
}

#[tokio::test]
async fn every_way_to_insert_queues() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "create unique index on outbox_event (event_id);
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), 't', 'k' || n, 'T', '{}' from generate_series(1, 10) n;
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 select event_id, 't', 'again', 'T', '{}' from outbox_event limit 5
                 on conflict (event_id) do nothing;
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 select event_id, topic, key, 'T', '{}' from outbox_event limit 5
                 on conflict (event_id) do update set event_type = 'U';
             merge into outbox_event e using (values (gen_random_uuid()), (gen_random_uuid())) v(id)
                 on e.event_id = v.id
                 when not matched then insert (event_id, topic, key, event_type, payload)
                 values (v.id, 't', 'merged', 'T', '{}');
             with written as (insert into outbox_event (event_id, topic, key, event_type, payload)
                 values (gen_random_uuid(), 't', 'cte', 'T', '{}') returning id)
                 select count(*) from written;
             begin;
                 savepoint a;
                 insert into outbox_event (event_id, topic, key, event_type, payload)
                     values (gen_random_uuid(), 't', 'rolled back', 'T', '{}');
                 rollback to a;
                 insert into outbox_event (event_id, topic, key, event_type, payload)
                     values (gen_random_uuid(), 't', 'kept', 'T', '{}');
             commit;",
        )
        .await;
    assert_queued(&fixture, 14).await;

    let copy = fixture
        .sql
        .copy_in::<_, &[u8]>(
            "copy outbox_event (event_id, topic, key, event_type, payload) from stdin",
        )
        .await
        .unwrap();
    let mut copy = std::pin::pin!(copy);
    let line: &[u8] = b"00000000-0000-7000-8000-000000000001\tt\tcopied\tT\t{}\n";
    futures::SinkExt::send(&mut copy, line).await.unwrap();
    copy.finish().await.unwrap();
    assert_queued(&fixture, 15).await;
}

#[tokio::test]
async fn an_id_that_was_not_drawn_is_refused_however_it_is_brought() {
    let fixture = Fixture::new().await;
    let insert = |id: i64| {
        format!(
            "insert into outbox_event (id, event_id, topic, key, event_type, payload)
                 overriding system value
                 values ({id}, gen_random_uuid(), 't', 'k', 'T', '{{}}')"
        )
    };
    for id in [i64::MAX, 1_000, 2, 0, -1, i64::MIN] {
        let refused = fixture.sql.batch_execute(&insert(id)).await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "428C9", "{id}");
        assert!(refused.message().contains("outbox_event.id"), "{refused}");
    }
    let copy = "copy outbox_event (id, event_id, topic, key, event_type, payload) from stdin";
    let copy = fixture.sql.copy_in::<_, &[u8]>(copy).await.unwrap();
    let mut copy = std::pin::pin!(copy);
    let line = b"9223372036854775807\t00000000-0000-7000-8000-000000000001\tt\tk\tT\t{}\n";
    futures::SinkExt::send(&mut copy, &line[..]).await.unwrap();
    let refused = copy.finish().await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "428C9");
    assert_queued(&fixture, 0).await;

    // Drawn by hand: as good as any.
    let drawn = "select nextval(pg_get_serial_sequence('outbox_event', 'id'))";
    let id = fixture.number(drawn).await;
    fixture.run(&insert(id)).await;
    assert_queued(&fixture, 1).await;
}

#[tokio::test]
async fn what_is_read_by_the_thousand_is_small() {
    let fixture = Fixture::new().await;
    let insert = |bytes: usize| {
        format!(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
                 values (gen_random_uuid(), 't', 'k', repeat('T', {bytes}), '{{}}')"
        )
    };
    fixture.run(&insert(1_024)).await;
    let refused = fixture.sql.batch_execute(&insert(1_025)).await.unwrap_err();
    let constraint = refused.as_db_error().unwrap().constraint();
    assert_eq!(constraint, Some("outbox_event_attributes_are_short"));
}

/// The trigger runs with the rights of the schema's owner: a writer must not make it call, or write
/// to, what the writer has made.
#[tokio::test]
async fn a_writer_needs_no_right_on_the_queue_and_cannot_turn_the_trigger_against_its_owner() {
    let fixture = Fixture::new().await;
    let role = format!("writer_{}", uuid::Uuid::now_v7().simple());
    let trap = |name: &str, arguments: &str, returns: &str, value: &str| {
        format!(
            "create function {name}({arguments}) returns {returns} language plpgsql as
             $$ begin raise 'the trap ran as %', current_user; return {value}; end $$;"
        )
    };
    let traps = [
        trap("pg_temp.sprung", "", "boolean", "true"),
        // A type, an operator and functions that the trigger uses, each in the writer's hands.
        "create domain pg_temp.text as pg_catalog.text check (pg_temp.sprung());".to_owned(),
        "create domain pg_temp.smallint as pg_catalog.int2 check (pg_temp.sprung());".to_owned(),
        trap("hostile.hashtextextended", "text, bigint", "bigint", "1"),
        trap("hostile.octet_length", "text", "integer", "1"),
        trap("hostile.and", "bigint, integer", "bigint", "1"),
        "create operator hostile.& (function = hostile.and, leftarg = bigint, rightarg = integer);"
            .to_owned(),
    ];
    fixture
        .run(&format!(
            "create role {role};
             create schema hostile authorization {role};
             grant usage on schema public to {role};
             grant insert on outbox_event to {role};
             set role {role};
             create temporary table outbox_pending (slot smallint, id bigint, bytes int);
             create temporary table outbox_event_id_seq (last_value bigint);
             {}
             set search_path = hostile, pg_temp, public, pg_catalog;
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 values (gen_random_uuid(), 't', 'k', 'T', '{{}}');
             reset search_path;
             reset role;
             drop table pg_temp.outbox_pending",
            traps.concat()
        ))
        .await;
    assert_queued(&fixture, 1).await;
    fixture.run(&format!("set role {role}")).await;
    let called = fixture.sql.execute("select outbox_enqueue()", &[]).await;
    assert!(called.is_err(), "only the trigger may call the function");
    fixture
        .run(&format!(
            "reset role; drop owned by {role} cascade; drop role {role}"
        ))
        .await;
}

#[tokio::test]
async fn what_no_relay_could_handle_is_refused_by_name() {
    let fixture = Fixture::new().await;
    let mut conn = fixture.connect().await;
    let mut broken = event("k");
    broken.content = Some(Content::json("{".to_owned()));
    assert!(append(&mut conn, &[event("k"), broken]).await.is_err());
    let mut nowhere = event("k");
    nowhere.topic = "t".repeat(250);
    let error = append(&mut conn, &[nowhere]).await.unwrap_err();
    assert!(error.is_permanent());
    assert!(error.to_string().contains("outbox_event_topic_fits_kafka"));
    for created_at in ["infinity", "-infinity", "0001-01-01 BC", "10000-01-01"] {
        let write = format!(
            "insert into outbox_event (event_id, topic, key, event_type, payload, created_at)
             values (gen_random_uuid(), 't', 'k', 'T', '{{}}', '{created_at}')"
        );
        let error = fixture.sql.execute(&write, &[]).await.unwrap_err();
        let error = error.as_db_error().unwrap().to_string();
        assert!(error.contains("outbox_event_created_at"), "{error}");
    }
    let mut long = event("k");
    long.key = "x".repeat(2_049);
    let error = append(&mut conn, &[long]).await.unwrap_err();
    assert!(error.is_permanent());
    assert!(error.to_string().contains("outbox_event_key_fits_index"));
    assert_queued(&fixture, 0).await;
}

#[tokio::test]
async fn the_view_names_every_state() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), 't', n::text, 'T', '{}' from generate_series(1, 6) n;
             set session_replication_role = replica;
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 values (gen_random_uuid(), 't', '7', 'T', '{}');
             set session_replication_role = origin;
             with moved as (delete from outbox_pending where id = 2 returning id)
                 insert into outbox_published select id, 3, 4 from moved;
             with moved as (delete from outbox_pending where id between 3 and 6 returning slot, id)
                 insert into outbox_held (bytes, id, slot, topic, key, cause, discarded_at)
                 select 10, id, slot, 't', id::text,
                        (array['dead', 'blocked', 'unavailable', 'dead'])[id - 2],
                        case when id = 6 then now() end from moved;",
        )
        .await;
    let states = fixture
        .text("select string_agg(state, ' ' order by id) from outbox")
        .await;
    assert_eq!(
        states,
        "pending published dead blocked unavailable discarded unqueued"
    );
    for state in states.split(' ') {
        assert!(state.parse::<domain::EventState>().is_ok(), "{state}");
    }
}
