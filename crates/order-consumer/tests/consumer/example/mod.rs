//! The example of docs/handlers.md, as it stands there: that it compiles and does what it says.

// It is made for a library, which shows it to others.
#[allow(unreachable_pub)]
mod stock_request;

use order_consumer::handlers::{Handler, HandlerError, ProductSales};
use stock_request::StockRequest;

use crate::support::{Fixture, drain, order};

#[test]
fn the_page_shows_the_example_that_is_tested() {
    let page = include_str!("../../../../../docs/handlers.md");
    let mut blocks = page.split("```rust\n").skip(1);
    let mut block = || blocks.next()?.split_once("```").map(|(code, _)| code);
    assert_eq!(block(), Some(include_str!("stock_request.rs")));
    let line = block().unwrap();
    let here = include_str!("mod.rs");
    assert!(here.contains(line.trim_start_matches("pub ")), "{line}");
    // But for the line that is to be added, it is the function that is there.
    let before = line.replace(", Box::new(StockRequest)", "");
    let there = include_str!("../../../src/handlers/mod.rs");
    assert!(before != line && there.contains(&before), "{before}");
    assert_eq!(block(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_has_its_effect_once() {
    let fixture = Fixture::new().await;
    let (_keeper, leases) = fixture.owner().await;
    let registry = fixture.registry(vec![Box::new(ProductSales), Box::new(StockRequest)]);
    let (mut consumer, metrics) = fixture.consumer_with(0, &leases, registry);
    let record = order("P-1", 3);
    fixture
        .produce(0, vec![record.clone(), order("P-2", 4)])
        .await;
    fixture.produce(0, vec![record]).await;
    assert_eq!(drain(&mut consumer).await, 2);
    assert_eq!(metrics.duplicates.get(), 1);
    assert_eq!(fixture.sales("P-1").await, (1, 3));
    let requests = "select string_agg(concat_ws(' ', topic, event_type, payload->>'productId',
                                                payload->>'quantity'), ', ' order by id)
                    from outbox_event where key = payload->>'orderId'";
    assert_eq!(
        fixture.text(requests).await,
        "stock.requested StockRequested P-1 3, stock.requested StockRequested P-2 4"
    );
}
