//! Inbox rows go after their time, and not before.

use std::sync::Arc;
use std::time::Duration;

use order_consumer::Metrics;
use order_consumer::retention::{Cleaner, Cleaning, Pass};
use prometheus_client::registry::Registry;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::UnknownTopicHandling;
use storage::lease::Leases;

use crate::support::{Fixture, GROUP, drain, order};

impl Fixture {
    /// Makes the partition begin at `offset`.
    pub(crate) async fn delete_before(&self, offset: i64) {
        let client = ClientBuilder::new(vec![self.brokers.clone()]);
        let client = client.build().await.unwrap();
        let partition = client
            .partition_client(&self.topic, 0, UnknownTopicHandling::Error)
            .await
            .unwrap();
        partition.delete_records(offset, 5_000).await.unwrap();
    }
}

fn cleaner(fixture: &Fixture, leases: Leases) -> Cleaner {
    Cleaner {
        group: GROUP.to_owned(),
        topic: fixture.topic.clone(),
        inboxes: Arc::new(fixture.inboxes()),
        records: Arc::new(fixture.cluster.clone()),
        leases,
        metrics: Metrics::register(&mut Registry::default()).of(&fixture.topic),
        retention: Duration::from_hours(1),
        pass: Pass::default(),
    }
}

async fn pass(cleaner: &mut Cleaner) -> (i64, Cleaning) {
    let mut sum = 0;
    loop {
        match cleaner.step().await.unwrap() {
            Cleaning::Swept { deleted } => sum += deleted,
            end => return (sum, end),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_when_they_are_old_and_kafka_has_no_copy_left() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let orders: Vec<_> = (0..10).map(|_| order("P-1", 1)).collect();
    fixture.produce(0, orders.clone()).await;
    // A copy of the first keeps its row.
    fixture.produce(0, orders[..1].to_vec()).await;
    drain(&mut consumer).await;
    let mut cleaner = cleaner(&fixture, leases);
    // Young, then old but still in Kafka.
    assert_eq!(pass(&mut cleaner).await, (0, Cleaning::Done));
    let age = "update inbox set processed_at = now() - interval '2 hours' where \"offset\" <> 5";
    fixture.sql.batch_execute(age).await.unwrap();
    assert_eq!(pass(&mut cleaner).await, (0, Cleaning::Done));
    fixture.delete_before(8).await;
    // Something is unpublished for more than half an hour.
    let event = "insert into outbox_event (event_id, topic, key, event_type, payload, created_at)
        values (gen_random_uuid(), 't', 'k', 'e', '{}', now() - interval '31 minutes')";
    fixture.sql.batch_execute(event).await.unwrap();
    assert_eq!(pass(&mut cleaner).await, (0, Cleaning::Waiting));
    let publish = "delete from outbox_pending";
    fixture.sql.batch_execute(publish).await.unwrap();
    // 1 to 7 without the young one, 5; the first row follows its copy at 10.
    assert_eq!(pass(&mut cleaner).await, (6, Cleaning::Done));
    let left = "select string_agg(\"offset\"::text, ' ' order by \"offset\") from inbox";
    assert_eq!(fixture.text(left).await, "5 8 9 10");

    // A row that a batch holds is left alone, and not waited for.
    let age = "update inbox set processed_at = now() - interval '2 hours'";
    fixture.sql.batch_execute(age).await.unwrap();
    let hold = "begin; select from inbox where \"offset\" = 5 for update";
    fixture.sql.batch_execute(hold).await.unwrap();
    assert_eq!(pass(&mut cleaner).await, (0, Cleaning::Done));
    fixture.sql.batch_execute("rollback").await.unwrap();
    assert_eq!(pass(&mut cleaner).await, (1, Cleaning::Done));
}

/// What an event of long ago has left behind.
const LONG_AGO: &str = "update inbox set processed_at = now() - interval '2 hours'";

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_row_counts_its_age_from_the_newest_delivery() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let mut cleaner = cleaner(&fixture, leases.clone());
    let event = vec![order("P-1", 1)];
    fixture.produce(0, event.clone()).await;
    assert_eq!(drain(&mut consumer).await, 1);
    // Replayed just before the outbox forgets it, again and again, while Kafka keeps less.
    for replays in 1..=3 {
        fixture.sql.batch_execute(LONG_AGO).await.unwrap();
        fixture.produce(0, event.clone()).await;
        assert_eq!(drain(&mut consumer).await, 0, "its effect has happened");
        fixture.delete_before(replays + 1).await;
        assert_eq!(pass(&mut cleaner).await, (0, Cleaning::Done));
    }
    assert_eq!(fixture.sales("P-1").await, (1, 1));
    // Without another copy its time comes.
    let age = "update inbox set redelivered_at = now() - interval '2 hours'";
    fixture.sql.batch_execute(age).await.unwrap();
    assert_eq!(pass(&mut cleaner).await, (1, Cleaning::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_rows_stay_while_an_old_copy_is_not_consumed_yet() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let limit = Duration::from_secs(2);
    let mut cleaner = Cleaner {
        retention: limit * 2,
        ..cleaner(&fixture, leases.clone())
    };
    let event = vec![order("P-1", 1)];
    fixture.produce(0, event.clone()).await;
    assert_eq!(drain(&mut consumer).await, 1);
    fixture.sql.batch_execute(LONG_AGO).await.unwrap();
    // A copy waits for a consumer that is away, and the one that was consumed is gone.
    fixture.produce(0, event).await;
    fixture.delete_before(1).await;
    tokio::time::sleep(limit + Duration::from_millis(500)).await;
    assert_eq!(pass(&mut cleaner).await, (0, Cleaning::Waiting));
    assert_eq!(drain(&mut consumer).await, 0, "its effect has happened");
    assert_eq!(fixture.sales("P-1").await, (1, 1));
    fixture.sql.batch_execute(LONG_AGO).await.unwrap();
    fixture.delete_before(2).await;
    assert_eq!(pass(&mut cleaner).await.1, Cleaning::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_a_few_thousand_at_a_time() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    fixture.produce(0, vec![order("P-1", 1)]).await;
    fixture.delete_before(1).await;
    let rows = format!(
        "insert into inbox (consumer_group, event_id, topic, partition, \"offset\", processed_at)
         select '{GROUP}', gen_random_uuid(), '{}', 0, 0, now() - interval '2 hours'
         from generate_series(1, 5000)",
        fixture.topic
    );
    fixture.sql.batch_execute(&rows).await.unwrap();
    let mut cleaner = cleaner(&fixture, leases);
    let mut parts = Vec::new();
    while let Cleaning::Swept { deleted } = cleaner.step().await.unwrap() {
        parts.push(deleted);
    }
    assert_eq!(parts, [2_000, 2_000, 1_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_once_they_are_settled_and_kafka_has_them_no_longer() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let mut broken = order("P-1", 1);
    broken.value = Some(b"{".to_vec());
    fixture.produce(0, vec![broken; 4]).await;
    drain(&mut consumer).await;
    let settle = "update inbox_dead_letter set settled_as = 'discarded', settled_at = now()
                      - case when \"offset\" = 1 then interval '0' else interval '2 hours' end
                  where \"offset\" <> 0";
    fixture.sql.batch_execute(settle).await.unwrap();
    let mut cleaner = cleaner(&fixture, leases);
    let left = async || {
        let left =
            "select string_agg(\"offset\"::text, ' ' order by \"offset\") from inbox_dead_letter";
        fixture.text(left).await
    };
    assert_eq!(pass(&mut cleaner).await.1, Cleaning::Done);
    assert_eq!(left().await, "0 1 2 3", "Kafka still has all of them");
    fixture.delete_before(3).await;
    assert_eq!(pass(&mut cleaner).await.1, Cleaning::Done);
    assert_eq!(left().await, "0 1 3", "0 is not settled, 1 is young");
}
