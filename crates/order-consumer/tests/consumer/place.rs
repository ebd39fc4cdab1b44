//! A place that is no longer what it was stops the partition until somebody decides.

use std::time::{Duration, Instant};

use local_stack::testing::eventually;
use order_consumer::partition::{PartitionConsumer, StepError};
use order_consumer::place::PlaceError;
use service::CancellationToken;
use storage::inbox::{self, Stream};

use crate::support::{Fixture, GROUP, drain, order};

const PATIENCE: Duration = Duration::from_secs(30);

async fn place_error(consumer: &mut PartitionConsumer) -> PlaceError {
    match consumer.step(&CancellationToken::new()).await {
        Err(StepError::Place(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_stops_the_partition_until_its_offset_is_reset() {
    let mut fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    fixture
        .produce(0, (0..3).map(|_| order("P-1", 1)).collect())
        .await;
    assert_eq!(drain(&mut consumer).await, 3);
    // Another topic in its place, with other records at the same offsets: where the group stands is
    // handed over to it.
    let before = fixture.topic.clone();
    fixture.topic = local_stack::testing::unique_topic("anew");
    fixture
        .cluster
        .ensure_topic(&fixture.topic, 2, 1)
        .await
        .unwrap();
    fixture
        .produce(0, (0..5).map(|_| order("P-2", 1)).collect())
        .await;
    let hand_over = format!(
        "update inbox_offset set topic = '{}' where topic = '{before}'",
        fixture.topic
    );
    fixture.sql.batch_execute(&hand_over).await.unwrap();
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    for _ in 0..2 {
        let error = place_error(&mut consumer).await;
        let PlaceError::Recreated { offset: 2, .. } = &error else {
            panic!("{error}")
        };
        assert!(error.to_string().contains("offsets reset"), "{error}");
    }
    assert_eq!(fixture.sales("P-2").await, (0, 0));
    let (wiring, _) = fixture.wiring(0, &leases);
    let (standings, stop) = (wiring.standings.clone(), CancellationToken::new());
    let running = tokio::spawn(PartitionConsumer::new(wiring).run(stop.clone()));
    let halt = eventually("its halt to be seen", PATIENCE, async || {
        let in_a_minute = Instant::now() + Duration::from_mins(1);
        standings
            .stalled(in_a_minute, Duration::from_secs(30))
            .pop()
    })
    .await;
    assert_eq!(halt.0, 0);
    for part in ["2 behind", "no step from offset 3", "offsets reset"] {
        assert!(halt.1.contains(part), "{part} in {}", halt.1);
    }
    stop.cancel();
    running.await.unwrap();
    let stream = Stream {
        group: GROUP.to_owned(),
        topic: fixture.topic.clone(),
        partition: 0,
    };
    let session = storage::Session::request("test");
    let mut conn = fixture.database.connect(&session).await.unwrap();
    inbox::reset(&mut conn, &stream, 0).await.unwrap();
    assert_eq!(drain(&mut consumer).await, 5);
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
    let stream = Stream {
        group: GROUP.to_owned(),
        topic: fixture.topic.clone(),
        partition: 0,
    };
    let session = storage::Session::request("test");
    let mut conn = fixture.database.connect(&session).await.unwrap();
    inbox::reset(&mut conn, &stream, 1).await.unwrap();
    fixture.produce(0, vec![order("P-1", 1)]).await;
    let mut new = 0;
    while metrics.duplicates.get() < 3 || new < 1 {
        if let order_consumer::partition::Step::Applied(applied) =
            consumer.step(&CancellationToken::new()).await.unwrap()
        {
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
        let PlaceError::OutOfRange {
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
