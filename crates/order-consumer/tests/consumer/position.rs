//! A place that is no longer what it was stops the partition until somebody decides.

use std::sync::Arc;
use std::time::Duration;

use local_stack::testing::{KafkaProxy, delete_topic, eventually};
use messaging::{Cluster, PartitionWriter};
use order_consumer::partition::PartitionContext;
use order_consumer::partition::PositionError;
use order_consumer::partition::{PartitionConsumer, Step, StepError};
use service::CancellationToken;
use tokio::time::Instant;

use crate::support::{Fixture, drain, order};

const PATIENCE: Duration = Duration::from_secs(30);
/// Records that are there are fetched at once. Nothing outside tells when that is done.
const FETCHED: Duration = Duration::from_secs(1);

async fn place_error(consumer: &mut PartitionConsumer) -> PositionError {
    match consumer.step(&CancellationToken::new()).await {
        Err(StepError::Position(error)) => error,
        other => panic!("{other:?}"),
    }
}

impl Fixture {
    /// The topic is deleted and made again, with other records at the same offsets.
    async fn make_the_topic_again(&self, records: usize) {
        assert!(delete_topic(&self.brokers, &self.topic).await);
        eventually("the topic to be made again", PATIENCE, async || {
            let made = self.cluster.create_topic(&self.topic, 2, 1).await;
            (made.ok()?).then_some(())
        })
        .await;
        let records: Vec<_> = (0..records).map(|_| order("P-2", 1)).collect();
        eventually("its records", PATIENCE, async || {
            let mut writer = PartitionWriter::new(self.cluster.clone(), &self.topic, 0);
            writer.produce(records.clone()).await.ok()
        })
        .await;
    }
}

/// What stops the partition; Kafka may need a moment to know the topic again.
async fn until_stopped(consumer: &mut PartitionConsumer) -> PositionError {
    eventually(
        "the partition to stand still",
        PATIENCE,
        async || match consumer.step(&CancellationToken::new()).await {
            Err(StepError::Position(error)) => Some(error),
            Err(StepError::Kafka(_)) | Ok(Step::Empty) => None,
            other => panic!("{other:?}"),
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_stops_the_partition_until_its_offset_is_reset() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    fixture
        .produce(0, (0..3).map(|_| order("P-1", 1)).collect())
        .await;
    assert_eq!(drain(&mut consumer).await, 3);
    fixture.make_the_topic_again(5).await;
    for _ in 0..2 {
        let error = until_stopped(&mut consumer).await;
        assert!(
            matches!(error, PositionError::AnotherTopic { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("offsets reset"), "{error}");
    }
    assert_eq!(fixture.sales("P-2").await, (0, 0));
    let (context, _) = fixture.context(0, &leases);
    let (topic_progress, stop) = (context.topic_progress.clone(), CancellationToken::new());
    let running = tokio::spawn(PartitionConsumer::new(context).run(stop.clone()));
    let halt = eventually("its halt to be seen", PATIENCE, async || {
        let in_a_minute = Instant::now() + Duration::from_mins(1);
        topic_progress
            .stalled(in_a_minute, Duration::from_secs(30))
            .pop()
    })
    .await;
    assert_eq!(halt.0, 0);
    for part in ["lag 2", "no progress from offset 3", "offsets reset"] {
        assert!(halt.1.contains(part), "{part} in {}", halt.1);
    }
    stop.cancel();
    running.await.unwrap();
    fixture.reset(0).await;
    assert_eq!(drain(&mut consumer).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ids_a_topic_made_again_is_told_by_its_last_record() {
    let fixture = Fixture::new().await;
    let proxy = KafkaProxy::start(&fixture.brokers).await;
    proxy.hide_topic_ids();
    let old = || Cluster::new(proxy.brokers().parse().unwrap());
    let (_keeper, leases) = fixture.owner().await;
    let consumer = || {
        let (context, _) = fixture.context(0, &leases);
        PartitionConsumer::new(PartitionContext {
            records: Arc::new(old()),
            ..context
        })
    };
    let mut running = consumer();
    // The last one has no event id.
    let mut records: Vec<_> = (0..3).map(|_| order("P-1", 1)).collect();
    let mut nameless = order("P-1", 1);
    nameless.headers.clear();
    records.push(nameless);
    fixture.produce(0, records).await;
    assert_eq!(drain(&mut running).await, 3);
    let ids = "select count(topic_id)::text from inbox_offset";
    assert_eq!(fixture.text(ids).await, "0");
    // Nobody asks for more while the next batch waits to be taken.
    fixture.produce(0, vec![order("P-1", 1)]).await;
    tokio::time::sleep(FETCHED).await;
    fixture.make_the_topic_again(50).await;
    // Kafka needs a moment to know the topic again, and does not tell.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let step = running.step(&CancellationToken::new()).await;
    println!("{step:?}");
    let error = until_stopped(&mut running).await;
    assert!(
        matches!(error, PositionError::AnotherRecord { offset: 4, .. }),
        "{error}"
    );
    // The next one knows the last record by its event id.
    let error = until_stopped(&mut consumer()).await;
    assert!(
        matches!(error, PositionError::AnotherRecord { offset: 4, .. }),
        "{error}"
    );
    assert_eq!(fixture.sales("P-2").await, (0, 0));
    fixture.reset(0).await;
    assert_eq!(drain(&mut running).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_topic_that_is_gone_does_not_count_where_the_group_was_put_since() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    fixture.produce(0, vec![order("P-1", 1)]).await;
    assert_eq!(drain(&mut consumer).await, 1);
    // Fetched, and not taken yet.
    fixture.produce(0, vec![order("P-1", 1)]).await;
    tokio::time::sleep(FETCHED).await;
    fixture.make_the_topic_again(5).await;
    // Where the old batch begins, by chance.
    fixture.reset(1).await;
    let fenced = consumer.step(&CancellationToken::new()).await.unwrap();
    assert_eq!(fenced, Step::Fenced);
    assert_eq!(drain(&mut consumer).await, 4);
    assert_eq!(metrics.fenced.get(), 1);
    assert_eq!(fixture.sales("P-1").await, (1, 1));
    assert_eq!(fixture.sales("P-2").await, (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_owner_goes_on_where_a_reset_says() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    fixture
        .produce(0, (0..4).map(|_| order("P-1", 1)).collect())
        .await;
    assert_eq!(drain(&mut consumer).await, 4);
    fixture.reset(1).await;
    fixture.produce(0, vec![order("P-1", 1)]).await;
    let mut new = 0;
    while metrics.duplicates.get() < 3 || new < 1 {
        if let Step::Applied(applied) = consumer.step(&CancellationToken::new()).await.unwrap() {
            new += applied.new;
        }
    }
    assert_eq!(fixture.sales("P-1").await, (5, 5));
    assert_eq!(metrics.fenced.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_deleted_before_it_was_consumed_is_not_skipped() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    fixture
        .produce(0, (0..6).map(|_| order("P-1", 1)).collect())
        .await;
    // A new group begins with what is left.
    fixture.delete_before(2).await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    assert_eq!(drain(&mut consumer).await, 4);
    fixture
        .produce(0, (0..3).map(|_| order("P-1", 1)).collect())
        .await;
    fixture.delete_before(8).await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    for _ in 0..2 {
        let error = place_error(&mut consumer).await;
        let PositionError::OutOfRange {
            next_offset: 6,
            earliest: 8,
            latest: 9,
            ..
        } = &error
        else {
            panic!("{error}")
        };
    }
    assert_eq!(fixture.sales("P-1").await, (4, 4));
}
