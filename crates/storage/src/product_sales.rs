//! The table `product_sales`: the effect of `OrderCreated`.

use std::collections::BTreeMap;

use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::ProductId;

use crate::pg::cached::cached;
use crate::pg::error::StorageError;

/// What a batch adds to one product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sales {
    pub orders: i64,
    pub units: i64,
}

/// Rows are locked in the order of the products, so that two batches cannot deadlock.
const ADD: &str = "\
insert into product_sales (product_id, orders, units)
select * from unnest($1, $2, $3) as n(product_id, orders, units) order by n.product_id
on conflict (product_id) do update
set orders = product_sales.orders + excluded.orders, units = product_sales.units + excluded.units";

/// Adds sales to their products, one upsert for all.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn add(
    conn: &mut AsyncPgConnection,
    sales: &BTreeMap<&ProductId, Sales>,
) -> Result<(), StorageError> {
    if sales.is_empty() {
        return Ok(());
    }
    let products: Vec<&str> = sales.keys().map(|id| id.as_str()).collect();
    let orders: Vec<i64> = sales.values().map(|s| s.orders).collect();
    let units: Vec<i64> = sales.values().map(|s| s.units).collect();
    cached(ADD)
        .bind::<Array<Text>, _>(products)
        .bind::<Array<BigInt>, _>(orders)
        .bind::<Array<BigInt>, _>(units)
        .execute(conn)
        .await?;
    Ok(())
}
