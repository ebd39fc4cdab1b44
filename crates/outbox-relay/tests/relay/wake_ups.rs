//! Notifications wake a relay.

use local_stack::testing::{Spawned, eventually};

use crate::kafka_outage::metric;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

const WOKEN: &str = "outbox_wake_ups_total{cause=\"notification\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_wakes_it_also_after_its_connection_was_lost() {
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    let listening = "from pg_stat_activity where datname = current_database()
                     and application_name = 'outbox-relay' and query ilike 'listen%outbox%'";
    let mut listener = 0;
    for _ in 0..2 {
        // Another one than before.
        let found = format!("select pid {listening} and pid <> $1");
        listener = eventually("it to listen", PATIENCE, async || {
            let found = fixture.sql.query_opt(&found, &[&listener]).await.unwrap();
            found.map(|row| row.get::<_, i32>(0))
        })
        .await;
        // Whoever begins to listen looks at once, as if woken.
        fixture.write(&["a"]).await;
        fixture.sql.batch_execute("notify outbox").await.unwrap();
        let before = metric(ops, WOKEN).await;
        eventually("it to be woken", PATIENCE, async || {
            fixture.sql.batch_execute("notify outbox").await.unwrap();
            (metric(ops, WOKEN).await >= before + 3).then_some(())
        })
        .await;
        let kill = format!("select pg_terminate_backend(pid) {listening}");
        fixture.sql.batch_execute(&kill).await.unwrap();
    }
    fixture.until_published(2).await;
}
