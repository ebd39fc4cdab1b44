//! An order that is cancelled is taken back, whichever of its two topics is read first.

use anyhow::{Result, ensure};
use domain::{EventType, OrderCancelled, OrderId};
use reqwest::StatusCode;

use crate::deployment::GROUP;
use crate::world::World;

const ORDERS: u16 = 8;

/// Cancels every other of some orders, one of them twice, as soon as they are placed.
pub(crate) async fn are_taken_back(world: &mut World) -> Result<String> {
    let mut cancelled = Vec::new();
    for number in 1..=ORDERS {
        let order = world.place("e2e-cancelled", number).await?;
        if number % 2 == 0 {
            cancelled.push(world.cancel(&order).await?);
        }
    }
    let first = &cancelled[0];
    let again = world.api.cancel(first.id).await?;
    ensure!(
        again.status == StatusCode::OK,
        "a second time: {}",
        again.body
    );
    ensure!(
        world.api.order(first.id).await? == *first,
        "to cancel order {} again changed it",
        first.id
    );
    let unknown = world.api.cancel(OrderId::generate()).await?;
    ensure!(
        unknown.status == StatusCode::NOT_FOUND,
        "an order that nobody placed: {}",
        unknown.body
    );
    world.settle().await?;
    world.check_books().await?;
    for order in &cancelled {
        let journey = world.api.journey(order.id).await?;
        let event = &journey["events"][1];
        ensure!(
            journey["state"] == "cancelled"
                && journey["events"].as_array().map(Vec::len) == Some(2)
                && event["type"] == OrderCancelled::TYPE
                && event["topic"] == OrderCancelled::TOPIC
                && event["state"] == "published"
                && event["consumed"][0]["consumerGroup"] == GROUP
                && event["consumed"][0]["deadLetterReason"].is_null(),
            "the journey of the cancelled order {} is {journey}",
            order.id
        );
    }
    Ok(format!(
        "{} of {ORDERS} orders were cancelled, one of them twice; product_sales is exactly what \
         still stands",
        cancelled.len()
    ))
}
