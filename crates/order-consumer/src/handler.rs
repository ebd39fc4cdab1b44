//! What happens because of an event.

use std::collections::BTreeMap;

use domain::{OrderCreated, Received};
use storage::product_sales::{self, Sales};
use storage::{Connection, StorageError};

/// An effect. Applied inside the batch's transaction, to events that were never applied before, in
/// the order of the partition.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Applies the events. It must do all it does through `conn`: what it does elsewhere is not
    /// undone when the transaction is.
    ///
    /// # Errors
    /// Any error undoes the whole batch.
    fn apply(
        &self,
        conn: &mut Connection,
        events: &[Received<OrderCreated>],
    ) -> impl Future<Output = Result<(), StorageError>> + Send;
}

/// Counts orders and units per product.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProductSales;

impl Handler for ProductSales {
    async fn apply(
        &self,
        conn: &mut Connection,
        events: &[Received<OrderCreated>],
    ) -> Result<(), StorageError> {
        let mut sales = BTreeMap::<_, Sales>::new();
        for received in events {
            let product = sales.entry(&received.event.product_id).or_default();
            product.orders += 1;
            product.units += i64::from(received.event.quantity);
        }
        product_sales::add(conn, &sales).await
    }
}
