//! The example of docs/handlers.md compiles and does what it says, and all code on that page is real.

// It is made for a library, which shows it to others.
#[allow(unreachable_pub)]
mod stock_request;

use order_consumer::handlers::{Handler, HandlerError, ProductSales};
use stock_request::StockRequest;

use crate::support::{Fixture, drain, order};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Each block of code stands in the file that is named last before it.
#[test]
fn the_page_shows_code_that_is_there() {
    let page = include_str!("../../../../../docs/handlers.md");
    let mut shown = 0;
    let mut parts = page.split("```");
    let mut file = None;
    while let Some(prose) = parts.next() {
        let words: Vec<&str> = prose.split('`').collect();
        let is_source = |word: &&&str| word.starts_with("crates/") && word.contains(".rs");
        file = words.iter().rfind(is_source).copied().or(file);
        let Some(code) = parts.next() else { break };
        let code = code.strip_prefix("rust\n").unwrap();
        let there = std::fs::read_to_string(format!("{ROOT}/{}", file.unwrap())).unwrap();
        assert!(there.contains(code), "not in {}:\n{code}", file.unwrap());
        shown += 1;
    }
    assert_eq!(shown, 5);
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
