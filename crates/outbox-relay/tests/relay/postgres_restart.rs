//! Postgres goes away in the middle of a settle, and comes back.

use std::time::Duration;

use local_stack::testing::eventually;

use crate::own_postgres::OwnPostgres;
use crate::support::{Fixture, PATIENCE, assert_in_order};

/// How soon after Postgres is back each partition must be written again.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Settles take so long that Postgres goes while one is under way.
const SLOW: &str = "\
create function slow() returns trigger language plpgsql as $$
begin perform pg_sleep(0.4); return null; end $$;
create trigger slow before insert on outbox_published for each statement execute function slow();";

const SETTLING: &str = "\
select count(*) from pg_stat_activity
where query like '%insert into outbox_published%' and wait_event = 'PgSleep'";

#[tokio::test(flavor = "multi_thread")]
async fn p2_p3_p4_p9_postgres_goes_while_marks_are_recorded_and_nothing_is_sent_twice() {
    let own = OwnPostgres::start().await;
    let mut fixture = Fixture::in_database(own.database().await).await;
    let relay = fixture.start_relay("10s");
    let keys: Vec<String> = (0..2_000).map(|n| format!("k{}", n % 61)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut written = 0;
    for killed in [true, false, true] {
        fixture.sql.batch_execute(SLOW).await.unwrap();
        fixture.write(&keys).await;
        eventually("a settle", PATIENCE, async || {
            let settling = fixture.sql.query_one(SETTLING, &[]).await.unwrap();
            (settling.get::<_, i64>(0) > 0).then_some(())
        })
        .await;
        if killed {
            own.kill().await;
        } else {
            own.stop().await;
        }
        own.start_again().await;
        fixture.sql = fixture.database.connect().await;
        fixture
            .sql
            .batch_execute("drop function slow cascade")
            .await
            .unwrap();
        // So that each partition has something to do.
        fixture.write(&keys).await;
        let took = fixture.until_at_work().await;
        println!("at work {took:?} after Postgres was back");
        assert!(took < BACK_WITHIN, "{took:?}\n{}", relay.log());
        written += 4_000;
        fixture.until_published(written).await;
    }
    let (by_key, copies) = fixture.published_by_key().await;
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 12_000);
    assert_in_order(&by_key);
    // What Kafka acknowledged is remembered until it is recorded: no outcome is unknown.
    assert_eq!(copies, 0);
}
