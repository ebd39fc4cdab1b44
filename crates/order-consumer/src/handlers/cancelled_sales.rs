//! The effect of cancellations on `product_sales`: takes orders and units back.
//!
//! Whether an order or its cancellation is applied first does not matter: both only add, and a sum is
//! the same in any order.

use std::collections::BTreeMap;

use domain::{OrderCancelled, Received};
use futures::FutureExt;
use futures::future::BoxFuture;
use storage::Connection;
use storage::product_sales::{self, Sales};

use super::{Handler, HandlerError};

/// Takes cancelled orders and their units back.
#[derive(Debug, Clone, Copy, Default)]
pub struct CancelledSales;

impl Handler<OrderCancelled> for CancelledSales {
    fn name(&self) -> &'static str {
        "cancelled_sales"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a OrderCancelled>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            let mut sales = BTreeMap::<_, Sales>::new();
            for received in events {
                let product = sales.entry(&received.event.product_id).or_default();
                product.orders -= 1;
                product.units -= i64::from(received.event.quantity);
            }
            Ok(product_sales::add(conn, &sales).await?)
        }
        .boxed()
    }
}
