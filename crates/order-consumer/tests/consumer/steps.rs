//! The consumer's turn, one at a time.

use order_consumer::partition::{Step, StepError};
use service::CancellationToken;

use crate::support::{Fixture, drain, order};

#[tokio::test(flavor = "multi_thread")]
async fn p5_copies_within_a_batch_across_batches_and_partitions_count_once() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    let orders: Vec<_> = (1..=5).map(|n| order("P-1", n)).collect();
    let mut with_copies = orders.clone();
    with_copies.extend([orders[0].clone(), orders[4].clone(), orders[0].clone()]);
    fixture.produce(0, with_copies).await;
    assert_eq!(drain(&mut consumer).await, 5);
    assert_eq!(fixture.sales("P-1").await, (5, 15));
    assert_eq!(metrics.duplicates.get(), 3);

    fixture.produce(0, orders[..2].to_vec()).await;
    assert_eq!(drain(&mut consumer).await, 0);
    let elsewhere = fixture.produce(1, orders[1..3].to_vec()).await;
    let (mut other, _) = fixture.consumer(1, &leases);
    assert_eq!(drain(&mut other).await, 0);
    assert_eq!(fixture.sales("P-1").await, (5, 15));
    // The row follows the newest copy seen.
    let places = fixture
        .text("select string_agg(partition || '/' || \"offset\", ' ' order by event_id) from inbox")
        .await;
    assert_eq!(
        places,
        format!("0/8 1/{elsewhere} 1/{} 0/3 0/6", elsewhere + 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_stops_its_key_alone_and_is_announced() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, metrics) = fixture.consumer(0, &leases);
    let mut broken = order("P-1", 1);
    broken.value = Some(b"{\0".to_vec());
    let mut behind = order("P-1", 10);
    behind.key.clone_from(&broken.key);
    let mut headless = order("P-1", 100);
    headless.headers.remove("ce_id");
    let good = order("P-1", 1_000);
    fixture
        .produce(0, vec![broken.clone(), behind.clone(), headless, good])
        .await;
    assert_eq!(drain(&mut consumer).await, 1);
    assert_eq!(fixture.sales("P-1").await, (1, 1_000));
    // In a later batch the key still waits.
    fixture.produce(0, vec![behind, order("P-1", 2_000)]).await;
    assert_eq!(drain(&mut consumer).await, 1);
    assert_eq!(fixture.sales("P-1").await, (2, 3_000));
    assert_eq!((metrics.dead.get(), metrics.blocked.get()), (2, 2));
    assert_eq!(
        fixture
            .text("select string_agg(\"offset\" || ':' || cause, ' ' order by \"offset\") from inbox_dead_letter")
            .await,
        "0:dead 1:blocked 2:dead 4:blocked"
    );
    let reasons = fixture
        .text("select string_agg(reason, '|' order by \"offset\") from inbox_dead_letter where cause = 'dead'")
        .await;
    assert!(
        reasons.contains("version 2") && reasons.contains("missing header ce_id"),
        "{reasons}"
    );
    // One event per dead letter for the dead letter topic, with the original bytes.
    let announced = fixture
        .text(
            "select string_agg(key || ' ' || topic, '|' order by id) from outbox
             where state = 'pending' and event_type = 'DeadLettered'",
        )
        .await;
    let topic = &fixture.topic;
    assert_eq!(
        announced,
        format!("{topic}/0/0 {topic}.dlq|{topic}/0/2 {topic}.dlq")
    );
    let value = fixture
        .text("select payload->>'value' from outbox order by id limit 1")
        .await;
    assert_eq!(value, "ewA=");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_transaction_leaves_nothing_and_is_tried_again() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    fixture
        .sql
        .batch_execute(
            "create function die() returns trigger language plpgsql as $$ begin
                 perform pg_terminate_backend(pg_backend_pid()); return new; end $$;
             create trigger die before insert on product_sales execute function die()",
        )
        .await
        .unwrap();
    fixture
        .produce(0, vec![order("P-1", 3), order("P-2", 4)])
        .await;
    for _ in 0..2 {
        let error = consumer.step(&CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, StepError::Storage(_)), "{error}");
        let left = fixture
            .text("select count(*) || ' ' || (select next_offset from inbox_offset) from inbox")
            .await;
        assert_eq!(left, "0 0");
    }
    fixture
        .sql
        .batch_execute("drop trigger die on product_sales")
        .await
        .unwrap();
    assert_eq!(drain(&mut consumer).await, 2);
    assert_eq!(fixture.sales("P-2").await, (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_member_that_lost_the_partition_changes_nothing() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut frozen, metrics) = fixture.consumer(0, &leases);
    fixture.produce(0, vec![order("P-1", 1)]).await;
    assert_eq!(drain(&mut frozen).await, 1);
    // Another one took over while this one still believes in its lease.
    fixture
        .sql
        .batch_execute("update lease set owner = gen_random_uuid(), epoch = epoch + 1")
        .await
        .unwrap();
    fixture.produce(0, vec![order("P-1", 1)]).await;
    assert_eq!(
        frozen.step(&CancellationToken::new()).await.unwrap(),
        Step::Fenced
    );
    assert_eq!(fixture.sales("P-1").await, (1, 1));
    assert_eq!(metrics.fenced.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_both_believe_they_own_a_partition_apply_each_event_once() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut one, _) = fixture.consumer(0, &leases);
    let (mut two, _) = fixture.consumer(0, &leases);
    let mut sold = 0;
    for round in 0..10 {
        fixture
            .produce(0, vec![order("P-1", 1), order("P-1", 2)])
            .await;
        let stop = CancellationToken::new();
        let (a, b) = tokio::join!(one.step(&stop), two.step(&stop));
        for step in [a, b] {
            if let Ok(Step::Applied(applied)) = step {
                sold += applied.new;
            }
        }
        if round % 3 == 0 {
            // Whoever was fenced looks up where the group stands and goes on from there. That one is
            // behind may show only now.
            loop {
                match one.step(&stop).await.unwrap() {
                    Step::Applied(applied) => sold += applied.new,
                    Step::Fenced => {}
                    Step::Empty => break,
                }
            }
        }
    }
    let mut last = fixture.consumer(0, &leases).0;
    sold += drain(&mut last).await;
    assert_eq!(sold, 20);
    assert_eq!(fixture.sales("P-1").await, (20, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_the_group_stands_and_a_new_group_at_the_earliest() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    fixture
        .produce(0, (0..7).map(|_| order("P-1", 1)).collect())
        .await;
    assert_eq!(drain(&mut fixture.consumer(0, &leases).0).await, 7);
    fixture.produce(0, vec![order("P-1", 1)]).await;
    assert_eq!(drain(&mut fixture.consumer(0, &leases).0).await, 1);
    assert_eq!(fixture.sales("P-1").await, (8, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_not_there_stops_the_partition_and_skips_nothing() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (mut consumer, _) = fixture.consumer(0, &leases);
    fixture.produce(0, vec![order("P-1", 1)]).await;
    drain(&mut consumer).await;
    fixture
        .sql
        .batch_execute("update inbox_offset set next_offset = 50")
        .await
        .unwrap();
    let (mut consumer, _) = fixture.consumer(0, &leases);
    for _ in 0..2 {
        let error = consumer.step(&CancellationToken::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("offset 50") && text.contains("0 to 1"),
            "{text}"
        );
    }
    assert_eq!(
        fixture
            .text("select next_offset::text from inbox_offset")
            .await,
        "50"
    );
    // Once somebody says where to go on, it does.
    fixture
        .sql
        .batch_execute("update inbox_offset set next_offset = 1")
        .await
        .unwrap();
    fixture.produce(0, vec![order("P-1", 1)]).await;
    assert_eq!(drain(&mut consumer).await, 1);
}
