//! The plans of what runs beside the pipeline: retention, replay and the observer must cost what
//! they look at, not what is there.

use storage::outbox::statements::{
    BACKLOG, CLEAN_DISCARDED, CLEAN_PUBLISHED, GROUPS, HELD_COUNTS, LOWEST_PENDING, REPLAY_BY_ID,
    REPLAY_BY_KEY,
};

use crate::outbox_plans::{fill, plan};
use crate::support::Fixture;

const REPLAY_BINDS: [&str; 7] = [
    "100000::bigint",
    "9223372036854775807::bigint",
    "5000::bigint",
    "null::timestamptz",
    "now()",
    "null::text",
    "null::text",
];

#[tokio::test]
async fn nothing_beside_the_pipeline_walks_a_whole_table() {
    let fixture = Fixture::new().await;
    fill(&fixture).await;
    let mut of_key = REPLAY_BINDS;
    of_key[5] = "'4711'::text";
    let clean = ["100000::bigint", "2000::bigint", "86400::float8"];
    let statements: [(&str, &str, &[&str], &[&str]); 8] = [
        (
            "retention",
            CLEAN_PUBLISHED,
            &clean,
            &[
                "using outbox_published_pkey on outbox_published p",
                "using outbox_event_pkey on outbox_event",
            ],
        ),
        (
            "retention of discarded ones",
            CLEAN_DISCARDED,
            &clean,
            &["using outbox_held_pkey on outbox_held h"],
        ),
        (
            "replay",
            REPLAY_BY_ID,
            &REPLAY_BINDS,
            &["using outbox_published_pkey on outbox_published p"],
        ),
        (
            "replay of a key",
            REPLAY_BY_KEY,
            &of_key,
            &[
                "using outbox_event_key on outbox_event e",
                "using outbox_published_pkey on outbox_published p",
            ],
        ),
        (
            "backlog",
            BACKLOG,
            &["100000::bigint"],
            &["using outbox_pending_pkey on outbox_pending"],
        ),
        (
            "held by cause",
            HELD_COUNTS,
            &["100000::bigint"],
            &["using outbox_held_pkey on outbox_held"],
        ),
        (
            "the first of each slot",
            LOWEST_PENDING,
            &["array[0, 31]::smallint[]"],
            &["using outbox_pending_pkey on outbox_pending"],
        ),
        (
            "groups",
            GROUPS,
            &["array[0, 31]::smallint[]"],
            &["using outbox_held_unavailable on outbox_held"],
        ),
    ];
    for analyzed in [false, true] {
        if analyzed {
            fixture.run("analyze").await;
        }
        let mut conn = fixture.connect().await;
        for (name, statement, binds, parts) in statements {
            let plan = plan(&mut conn, statement, binds).await;
            let context = format!("{name}, analyzed {analyzed}\n{plan}");
            for part in parts {
                assert!(plan.contains(part), "no {part} in {context}");
            }
            assert!(!plan.contains("Seq Scan"), "{context}");
        }
        // The walk is a range of the primary key that ends at its limit.
        let walk = plan(&mut conn, CLEAN_PUBLISHED, &clean).await;
        let lines: Vec<&str> = walk.lines().map(str::trim).collect();
        assert!(
            lines.windows(3).any(|l| l[0].ends_with("Limit")
                && l[1].contains("Index Scan using outbox_published_pkey")
                && l[2].contains("Index Cond: (id > ")),
            "analyzed {analyzed}\n{walk}"
        );
    }
}
