//! Pending ids whose events somebody deleted by hand: they keep nothing from flowing, and are told.

use local_stack::testing::Spawned;

use crate::kafka_outage::metric;
use crate::process::BINARY;
use crate::support::{Fixture, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn pending_ids_without_an_event_keep_nothing_from_flowing() {
    let fixture = Fixture::new().await;
    let relay = Spawned::start(BINARY, &["run"], fixture.variables());
    let ops = relay.ops_address(PATIENCE).await;
    // One that fills a read by its size, and more small ones than a read takes.
    for (round, large, small) in [(1, 500_000, 10), (2, 10, 600)] {
        fixture.sql.batch_execute("begin").await.unwrap();
        fixture.write_sized(&[("a", large)]).await;
        fixture.write(&vec!["a"; small]).await;
        fixture
            .sql
            .batch_execute("delete from outbox_event e using outbox_pending p where p.id = e.id")
            .await
            .unwrap();
        fixture.write(&["a"; 17]).await;
        fixture.sql.batch_execute("commit").await.unwrap();
        fixture.until_published(round * 17).await;
    }
    assert_eq!(
        fixture.number("select count(*) from outbox_pending").await,
        0
    );
    assert_eq!(metric(ops, "outbox_orphans_total").await, 612);
    let told = relay.log();
    let told = told.lines().filter(|line| line.contains("do not exist"));
    assert_eq!(told.count(), 1, "{}", relay.log());
}
