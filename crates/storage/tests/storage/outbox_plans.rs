//! The plans of the hot statements, on tables that were never analyzed.

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use storage::Connection;
use storage::outbox::statements::{HOLD, MOVE_BACK, READ_PENDING, SETTLE, SETTLE_BY_ID};

use crate::support::Fixture;

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text, column_name = "QUERY PLAN")]
    line: String,
}

pub(crate) async fn plan(conn: &mut Connection, statement: &str, binds: &[&str]) -> String {
    let statement = filled_in(&format!("explain (costs off) {statement}"), binds);
    let lines: Vec<Line> = sql_query(statement).load(conn).await.unwrap();
    lines.into_iter().map(|l| l.line + "\n").collect()
}

/// The statement with its numbered parameters replaced.
fn filled_in(statement: &str, binds: &[&str]) -> String {
    let places = binds.iter().enumerate().rev();
    places.fold(statement.to_owned(), |filled, (place, value)| {
        filled.replace(&format!("${}", place + 1), value)
    })
}

/// 200,000 published and 20,000 pending events.
pub(crate) async fn fill(fixture: &Fixture) {
    fixture
        .run(
            "alter table outbox_event set (autovacuum_enabled = off);
             alter table outbox_pending set (autovacuum_enabled = off);
             alter table outbox_published set (autovacuum_enabled = off);
             insert into outbox_event (event_id, topic, key, event_type, payload)
                 select gen_random_uuid(), 't', n::text, 'T', '{}' from generate_series(1, 220000) n;
             with moved as (delete from outbox_pending where id <= 200000 returning id)
                 insert into outbox_published (id, kafka_partition, kafka_offset)
                 select id, 0, id from moved;",
        )
        .await;
}

#[tokio::test]
async fn the_read_and_the_settle_walk_indexes_whatever_the_statistics() {
    let fixture = Fixture::new().await;
    fill(&fixture).await;
    for analyzed in [false, true] {
        if analyzed {
            fixture.run("analyze").await;
        }
        let mut conn = fixture.connect().await;
        let read = plan(
            &mut conn,
            READ_PENDING,
            &[
                "array[0, 1, 2, 31]::smallint[]",
                "512",
                "393216",
                "12582912",
                "'/test'",
                "67108864",
            ],
        )
        .await;
        for part in [
            "using outbox_pending_pkey on outbox_pending",
            "using outbox_event_pkey on outbox_event",
            "using outbox_held_key on outbox_held",
            "using outbox_held_unavailable on outbox_held",
        ] {
            assert!(
                read.contains(part),
                "analyzed {analyzed}, no {part} in\n{read}"
            );
        }
        assert!(!read.contains("Seq Scan"), "analyzed {analyzed}\n{read}");
        // What was found is put in the order of turns, and its slots and topics are told apart; what
        // is pending was not sorted to find it.
        let sorts: Vec<_> = read.lines().filter(|l| l.contains("Sort Key")).collect();
        assert!(
            matches!(sorts[..], [by_turn, by_topic]
                if by_turn.contains("turn") && by_topic.contains("topic")),
            "analyzed {analyzed}\n{read}"
        );
        // Where unavailable events lie is found by probes, not by walking along them.
        let lines: Vec<&str> = read.lines().collect();
        for walk in lines.windows(2) {
            if walk[0].contains("outbox_held_unavailable") {
                let probe = walk[1].contains("Index Cond: (slot = ")
                    || walk[1].contains("Index Cond: ((slot = ");
                assert!(probe, "analyzed {analyzed}\n{read}");
            }
        }
        // One walk for all events, not one per event.
        assert!(
            read.contains("Index Cond: (id = ANY ("),
            "analyzed {analyzed}\n{read}"
        );

        let [ids, offsets] = ["array[200001]::bigint[]", "array[0]::bigint[]"];
        let [writers, partitions] = ["array['1']::xid[]", "array[0]::int[]"];
        let arrays = [ids, writers, "array['(0,1)']::tid[]", partitions, offsets];
        let settle = plan(&mut conn, SETTLE, &arrays).await;
        let arrays = ["array[0]::smallint[]", ids, writers, partitions, offsets];
        let by_id = plan(&mut conn, SETTLE_BY_ID, &arrays).await;
        for (plan, part) in [
            (settle, "Tid Scan on outbox_pending"),
            (by_id, "using outbox_pending_pkey on outbox_pending"),
        ] {
            assert!(plan.contains(part), "analyzed {analyzed}\n{plan}");
            assert!(!plan.contains("Seq Scan"), "analyzed {analyzed}\n{plan}");
        }
    }
}

#[tokio::test]
async fn holding_and_moving_back_walk_indexes_whatever_the_statistics() {
    let fixture = Fixture::new().await;
    fill(&fixture).await;
    let who = ["'outbox-relay'::text", "gen_random_uuid()"];
    let (int, long) = ("array[1]::int[]", "array[1]::bigint[]");
    let texts = "array['t']::text[]";
    let hold = [
        who[0],
        who[1],
        int,
        long,
        "array[1]::smallint[]",
        long,
        long,
        "array['1']::xid[]",
        texts,
        texts,
        int,
        int,
        texts,
        texts,
        int,
    ];
    let back = [
        who[0],
        who[1],
        "1",
        "1::bigint",
        "'t'::text",
        int,
        int,
        "1000::bigint",
        "1::bigint",
    ];
    for analyzed in [false, true] {
        if analyzed {
            fixture.run("analyze").await;
        }
        let mut conn = fixture.connect().await;
        for (statement, binds, parts) in [
            (
                HOLD,
                &hold[..],
                [
                    "outbox_pending_pkey on outbox_pending",
                    "lease_pkey on lease",
                ],
            ),
            (
                MOVE_BACK,
                &back[..],
                [
                    "outbox_held_unavailable on outbox_held",
                    "Tid Scan on outbox_held",
                ],
            ),
        ] {
            let plan = plan(&mut conn, statement, binds).await;
            for part in parts {
                assert!(
                    plan.contains(part),
                    "analyzed {analyzed}, no {part} in\n{plan}"
                );
            }
            assert!(!plan.contains("Seq Scan"), "analyzed {analyzed}\n{plan}");
        }
    }
}
