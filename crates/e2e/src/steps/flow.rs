//! The way of an order: accepted, in Kafka, in the inbox, in the effect.

use anyhow::{Context, Result, ensure};
use domain::{EventType, Order, OrderCreated};
use messaging::partition_of;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::books::EventRow;
use crate::deployment::GROUP;
use crate::eventually::{Seen, eventually};
use crate::topic::Placed;
use crate::world::World;

const ORDERS: u16 = 20;
const FOREIGN_EVENTS: i64 = 30;

/// Orders of three products, with different quantities.
pub(crate) async fn place(world: &mut World) -> Result<Vec<Order>> {
    let mut orders = Vec::new();
    for number in 1..=ORDERS {
        let product = format!("e2e-flow-{}", number % 3);
        let order = world.place(&product, number).await?;
        ensure!(
            world.api.order(order.id).await? == order,
            "GET /orders/{} gives something else than was answered",
            order.id
        );
        orders.push(order);
    }
    Ok(orders)
}

/// Each order is one record: in its key's partition, with every header, and says what was ordered.
pub(crate) async fn reach_kafka(world: &mut World, orders: &[Order]) -> Result<String> {
    let count = orders.len();
    eventually("the orders to be in Kafka", async || {
        let there = world.topic.read().await?.len();
        Ok(if there >= count {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{there} of {count}"))
        })
    })
    .await?;
    let partitions = world.topic.partition_count();
    let records = world.topic.read().await?;
    ensure!(
        records.len() == count,
        "{count} orders are {} records",
        records.len()
    );
    for order in orders {
        let key = order.id.to_string();
        let placed = records
            .iter()
            .find(|placed| placed.key() == key.as_bytes())
            .with_context(|| format!("no record has the key {key}"))?;
        let events = world.books.events(&key).await?;
        let [event] = events.as_slice() else {
            anyhow::bail!("order {key} has {} events", events.len());
        };
        check_record(placed, order, event, partitions).with_context(|| {
            let (partition, offset) = (placed.partition, placed.record.offset);
            format!("the record of order {key} at {partition}/{offset}")
        })?;
    }
    Ok(format!(
        "{count} orders are in Kafka, each in its key's partition, with their headers and what \
         was ordered"
    ))
}

fn check_record(placed: &Placed, order: &Order, event: &EventRow, partitions: i32) -> Result<()> {
    let partition = partition_of(placed.key(), partitions);
    ensure!(placed.partition == partition, "belongs to {partition}");
    for (name, expected) in [
        ("ce_specversion", "1.0"),
        ("ce_id", &event.event_id),
        ("ce_type", OrderCreated::TYPE),
        ("ce_source", "/order-api"),
        ("ce_schemaversion", "2"),
        ("content-type", "application/json"),
    ] {
        let value = placed.header(name);
        ensure!(value == expected, "{name} is {value:?}, not {expected:?}");
    }
    let time = OffsetDateTime::parse(&placed.header("ce_time"), &Rfc3339).context("ce_time")?;
    let created = OffsetDateTime::parse(&event.created_at, &Rfc3339)?;
    ensure!(time == created, "ce_time is not {created}");
    let value = placed.record.value.as_deref().unwrap_or_default();
    ensure!(
        value == event.payload.as_bytes(),
        "the value is not the payload byte for byte, {}",
        event.payload
    );
    let said: serde_json::Value = serde_json::from_slice(value)?;
    let ordered = json!({
        "orderId": order.id,
        "productId": order.product_id,
        "quantity": order.quantity,
        "createdAt": order.created_at.format(&Rfc3339)?,
    });
    ensure!(said == ordered, "says {said}, ordered was {ordered}");
    Ok(())
}

/// Each order is applied once, and its journey tells the same as Kafka and the inbox.
pub(crate) async fn have_their_effect(world: &mut World, orders: &[Order]) -> Result<String> {
    world.settle().await?;
    world.check_books().await?;
    let records = world.topic.read().await?.to_vec();
    for order in orders {
        let key = order.id.to_string();
        let placed = records.iter().find(|placed| placed.key() == key.as_bytes());
        let placed = placed.with_context(|| format!("no record has the key {key}"))?;
        let (partition, offset) = (placed.partition, placed.record.offset);
        let events = world.books.events(&key).await?;
        let row = events.first().context("no event")?;
        ensure!(
            row.state == "published"
                && row.kafka == Some((partition, offset))
                && row.inbox == [(GROUP.to_owned(), partition, offset)],
            "order {key} lies at {partition}/{offset}, its event says {row:?}"
        );
        let journey = world.api.journey(order.id).await?;
        let event = &journey["events"][0];
        ensure!(
            journey["orderId"] == key.as_str()
                && journey["events"].as_array().map(Vec::len) == Some(1)
                && event["eventId"] == row.event_id.as_str()
                && event["state"] == "published"
                && event["delivered"]["partition"] == partition
                && event["delivered"]["offset"] == offset
                && event["consumed"][0]["consumerGroup"] == GROUP
                && event["consumed"][0]["deadLetterReason"].is_null(),
            "the journey of order {key} is {journey}"
        );
    }
    Ok(format!(
        "{} orders have had their effect once; product_sales is exactly what was ordered, and each \
         journey tells so",
        orders.len()
    ))
}

/// Events that a program with SQL commits, several of one key, arrive in the order they were
/// written.
pub(crate) async fn foreign_events_keep_their_order(world: &mut World) -> Result<String> {
    let key = Uuid::now_v7().to_string();
    for _ in 0..FOREIGN_EVENTS {
        world.write_event(&key, "e2e-foreign").await?;
    }
    world.settle().await?;
    world.check_books().await?;
    Ok(format!(
        "{FOREIGN_EVENTS} events of one key, written by SQL alone, are in Kafka in the order they \
         were written, and applied"
    ))
}
