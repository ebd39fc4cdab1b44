//! The effect on the stock: each order asks for its units to be set aside, by an event.

use std::collections::BTreeMap;

use domain::{Content, EventId, NewEvent, OrderCreated, Received};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use storage::{Connection, outbox};

use super::{Handler, HandlerError};

/// Asks for the units of each order.
pub struct StockRequest;

impl Handler<OrderCreated> for StockRequest {
    fn name(&self) -> &'static str {
        "stock_request"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a OrderCreated>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            let requests = events.iter().map(|received| request(received.event));
            let requests: Vec<NewEvent> = requests.collect();
            Ok(outbox::append(conn, &requests).await?)
        }
        .boxed()
    }
}

fn request(order: &OrderCreated) -> NewEvent {
    let payload = json!({
        "orderId": order.order_id,
        "productId": order.product_id,
        "quantity": order.quantity,
    });
    NewEvent {
        event_id: EventId::generate(),
        topic: "stock.requested".to_owned(),
        key: order.order_id.to_string(),
        event_type: "StockRequested".to_owned(),
        schema_version: 1,
        source: Some("/order-consumer".into()),
        content: Some(Content::json(payload.to_string())),
        headers: BTreeMap::new(),
    }
}
