//! The table `orders`.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Integer, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use domain::{Order, OrderId, ProductId, Quantity};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::StorageError;

const INSERT: &str = "\
insert into orders (id, product_id, quantity, created_at)
select * from unnest($1, $2, $3, $4)";

/// Inserts orders, all or none.
///
/// # Errors
/// When Postgres refuses one or cannot be asked.
pub async fn insert(conn: &mut AsyncPgConnection, orders: &[Order]) -> Result<(), StorageError> {
    let ids: Vec<Uuid> = orders.iter().map(|o| o.id.as_uuid()).collect();
    let products: Vec<&str> = orders.iter().map(|o| o.product_id.as_str()).collect();
    let quantities: Vec<i32> = orders.iter().map(|o| o.quantity.get().into()).collect();
    let times: Vec<OffsetDateTime> = orders.iter().map(|o| o.created_at).collect();
    sql_query(INSERT)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(products)
        .bind::<Array<Integer>, _>(quantities)
        .bind::<Array<Timestamptz>, _>(times)
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct OrderRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    product_id: String,
    #[diesel(sql_type = BigInt)]
    quantity: i64,
    #[diesel(sql_type = Timestamptz)]
    created_at: OffsetDateTime,
}

impl TryFrom<OrderRow> for Order {
    type Error = StorageError;

    fn try_from(row: OrderRow) -> Result<Self, Self::Error> {
        let unreadable = |column, reason: String| StorageError::Unreadable { column, reason };
        Ok(Self {
            id: OrderId::from(row.id),
            product_id: ProductId::try_from(row.product_id)
                .map_err(|e| unreadable("orders.product_id", e.to_string()))?,
            quantity: Quantity::try_from(row.quantity)
                .map_err(|e| unreadable("orders.quantity", e.to_string()))?,
            created_at: row.created_at,
        })
    }
}

/// The order of this id, if there is one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: OrderId,
) -> Result<Option<Order>, StorageError> {
    sql_query("select id, product_id, quantity::bigint, created_at from orders where id = $1")
        .bind::<SqlUuid, _>(id.as_uuid())
        .get_result::<OrderRow>(conn)
        .await
        .optional()?
        .map(Order::try_from)
        .transpose()
}
