//! The effect on `product_sales`: orders and units per product.

use std::collections::BTreeMap;

use domain::{OrderCreated, Received};
use futures::FutureExt;
use futures::future::BoxFuture;
use storage::Connection;
use storage::product_sales::{self, Sales};

use super::{Handler, HandlerError};

/// Counts orders and units per product.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProductSales;

impl Handler<OrderCreated> for ProductSales {
    fn name(&self) -> &'static str {
        "product_sales"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a OrderCreated>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            let mut sales = BTreeMap::<_, Sales>::new();
            for received in events {
                let product = sales.entry(&received.event.product_id).or_default();
                product.orders += 1;
                product.units += i64::from(received.event.quantity);
            }
            Ok(product_sales::add(conn, &sales).await?)
        }
        .boxed()
    }
}
