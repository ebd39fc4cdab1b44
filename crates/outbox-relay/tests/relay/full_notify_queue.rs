//! A Postgres that takes no notifications, since somebody who listens does not read them.

use std::time::Duration;

use local_stack::testing::eventually;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::own_postgres::OwnPostgres;
use crate::support::{Fixture, PARTITIONS};

/// Fills the queue. It stays full until the returned connection ends, which listens and does not
/// read, as it is inside of a transaction.
async fn fill(postgres: &OwnPostgres) -> Client {
    let listener = postgres.connect().await;
    // It listens from the end of that transaction on.
    for statement in ["listen foreign_channel", "begin", "select 1"] {
        listener.batch_execute(statement).await.unwrap();
    }
    let sql = postgres.connect().await;
    let notify = "select pg_notify('foreign_channel', repeat('x', 7000))";
    eventually("a full queue", Duration::from_secs(30), async || {
        let refused = sql.batch_execute(notify).await.err()?;
        assert_eq!(refused.code(), Some(&SqlState::PROGRAM_LIMIT_EXCEEDED));
        Some(())
    })
    .await;
    listener
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_relay_that_joins_while_no_notification_can_be_sent_works_on_its_share() {
    // Its queue is as small as it can be.
    let postgres = OwnPostgres::start_with(&[("max_notify_queue_pages", "64")]).await;
    let database = postgres.database().await;
    let fixture = Fixture::in_database(database).await;
    let first = fixture.start_relay("2s");
    fixture.until_shared_by(1).await;
    let listener = fill(&postgres).await;
    let second = fixture.start_relay("2s");
    fixture.until_shared_by(2).await;
    for partition in 0..PARTITIONS {
        fixture.write_to_partition(partition, 100).await;
    }
    fixture.assert_progress(&[&first, &second], &[]).await;
    drop(listener);
}
