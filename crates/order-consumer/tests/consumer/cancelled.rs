//! Orders and their cancellations: two event types, and what is left of both.

use domain::{NewEvent, Order, OrderCancelled, OrderCreated};
use order_consumer::Registry;
use order_consumer::handlers::{CancelledSales, ProductSales};
use time::OffsetDateTime;

use crate::support::{Fixture, drain, record};

fn cancelled(product: &str, quantity: i64) -> (NewEvent, NewEvent) {
    let now = OffsetDateTime::now_utc();
    let mut order = Order::place(product.parse().unwrap(), quantity.try_into().unwrap(), now);
    let created = order.created_event();
    assert_eq!(
        order.cancel(now, std::time::Duration::from_hours(1)),
        Ok(true)
    );
    (created, order.cancelled_event().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_the_same_whichever_is_read_first() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let registry = Registry::default()
        .register_on::<OrderCreated>(&fixture.topic, vec![Box::new(ProductSales)])
        .register_on::<OrderCancelled>(&fixture.topic, vec![Box::new(CancelledSales)]);
    let (mut consumer, metrics) = fixture.consumer_with(0, &leases, registry);
    let (stands, _) = cancelled("P-1", 100);
    let (early, early_cancelled) = cancelled("P-1", 7);
    let (late, late_cancelled) = cancelled("P-1", 20);
    let of = |events: Vec<NewEvent>| events.into_iter().map(record).collect();
    // The cancellation first.
    fixture.produce(0, of(vec![early_cancelled.clone()])).await;
    drain(&mut consumer).await;
    assert_eq!(fixture.sales("P-1").await, (-1, -7));
    // In one batch, in turns.
    let rest = vec![stands, early, early_cancelled, late, late_cancelled];
    fixture.produce(0, of(rest)).await;
    assert_eq!(drain(&mut consumer).await, 4);
    assert_eq!(fixture.sales("P-1").await, (1, 100));
    assert_eq!((metrics.duplicates.get(), metrics.dead.get()), (1, 0));
}
