//! What happens when an effect cannot happen: by the fault of an event, or of the database.

use std::time::Duration;

use order_consumer::handlers::ProductSales;
use order_consumer::partition::PartitionContext;
use order_consumer::partition::{PartitionConsumer, Step, StepError};
use service::CancellationToken;
use storage::Session;

use crate::handlers::{Panicking, Refusing};
use crate::support::{Fixture, drain, next_of_key, order};

const BAD: i64 = 13;

/// Steps that fail by the fault of an event, until one does not.
async fn insist(consumer: &mut PartitionConsumer) -> (i32, Step) {
    let mut failures = 0;
    loop {
        match consumer.step(&CancellationToken::new()).await {
            Ok(step) => return (failures, step),
            Err(StepError::Handler { attempt, .. }) => {
                failures += 1;
                assert_eq!(attempt, failures);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_an_event_that_a_handler_refuses_stops_its_key_alone() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let registry = fixture.registry(vec![
        Box::new(ProductSales),
        Box::new(Refusing::quantity(BAD)),
    ]);
    let (mut consumer, metrics) = fixture.consumer_with(0, &leases, registry);
    let mut records: Vec<_> = (0..40).map(|_| order("P-1", 1)).collect();
    records[7] = order("P-1", BAD);
    records[8] = next_of_key(&records[7], "P-1", 100);
    records[30] = order("P-1", BAD);
    records[39] = next_of_key(&records[7], "P-1", 100);
    fixture.produce(0, records.clone()).await;
    let (failures, step) = insist(&mut consumer).await;
    assert_eq!(failures, 3);
    let Step::Applied(applied) = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        (applied.new, applied.dead.len(), applied.blocked),
        (36, 2, 2)
    );
    assert_eq!(fixture.sales("P-1").await, (36, 36));
    assert_eq!(metrics.retries.get(), 3);
    let held = fixture
        .text("select string_agg(\"offset\" || ' ' || cause || ' ' || attempts, ', ' order by \"offset\") from inbox_dead_letter")
        .await;
    assert_eq!(held, "7 dead 4, 8 blocked 0, 30 dead 4, 39 blocked 0");
    // Neither the dead nor those behind count as applied.
    let rows = "select count(*)::text from inbox";
    assert_eq!(fixture.text(rows).await, "36");
    let announced = "select count(*)::text from outbox_event where event_type = 'DeadLettered'";
    assert_eq!(fixture.text(announced).await, "2");
    // The next batch is as good as new, and the key waits.
    fixture
        .produce(0, vec![order("P-1", 1), next_of_key(&records[7], "P-1", 1)])
        .await;
    assert_eq!(drain(&mut consumer).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_an_event_that_the_database_refuses_stops_its_key_alone() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let refuse = "create function refuse() returns trigger language plpgsql as $$ begin
            if new.product_id = 'P-raise' then raise exception 'not this one'; end if;
            return new; end $$;
        create trigger refuse before insert on product_sales for each row execute function refuse();
        alter table product_sales add check (product_id <> 'P-check')";
    fixture.sql.batch_execute(refuse).await.unwrap();
    let (mut consumer, _) = fixture.consumer(0, &leases);
    let products = ["P-1", "P-raise", "P-1", "P-check", "P-1"];
    fixture
        .produce(0, products.map(|product| order(product, 1)).to_vec())
        .await;
    let (_, step) = insist(&mut consumer).await;
    let Step::Applied(applied) = step else {
        panic!("{step:?}")
    };
    assert_eq!(applied.new, 3);
    let reasons: Vec<&str> = applied.dead.iter().map(|(_, why)| why.as_str()).collect();
    assert!(reasons[0].contains("not this one"), "{reasons:?}");
    assert!(reasons[1].contains("product_sales"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_handler_that_panics_ends_its_consumer_and_nothing_of_the_batch_stays() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let registry = fixture.registry(vec![Box::new(ProductSales), Box::new(Panicking)]);
    let (mut panicking, _) = fixture.consumer_with(0, &leases, registry);
    fixture
        .produce(0, (0..9).map(|_| order("P-1", 1)).collect())
        .await;
    let ended = tokio::spawn(async move { panicking.step(&CancellationToken::new()).await }).await;
    assert!(ended.unwrap_err().is_panic());
    let held = "select count(*)::text from inbox_dead_letter";
    assert_eq!(fixture.text(held).await, "0");
    // The next process, whose handlers are mended.
    let (mut mended, _) = fixture.consumer(0, &leases);
    assert_eq!(drain(&mut mended).await, 9);
    assert_eq!(fixture.sales("P-1").await, (9, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_an_outage_spends_no_attempt() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let (context, metrics) = fixture.context(0, &leases);
    let mut consumer = PartitionConsumer::new(PartitionContext {
        inbox: fixture.inbox(Session::leased("test", Duration::from_millis(300))),
        ..context
    });
    fixture
        .produce(0, (0..9).map(|_| order("P-1", 1)).collect())
        .await;
    let lock = "begin; lock table product_sales in access exclusive mode";
    fixture.sql.batch_execute(lock).await.unwrap();
    for _ in 0..6 {
        let error = consumer.step(&CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, StepError::Storage(_)), "{error}");
    }
    fixture.sql.batch_execute("rollback").await.unwrap();
    assert_eq!(drain(&mut consumer).await, 9);
    assert_eq!((metrics.retries.get(), metrics.dead.get()), (0, 0));
}
