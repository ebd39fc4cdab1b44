//! The table `orders`.

use std::borrow::Borrow;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use domain::{NewEvent, Order, OrderId, ProductId, Quantity};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::outbox::append;
use crate::pg::cached::cached;
use crate::pg::error::StorageError;

const INSERT: &str = "\
insert into orders (id, product_id, quantity, created_at)
select * from unnest($1, $2, $3, $4)";

/// Inserts orders, all or none.
///
/// # Errors
/// When Postgres refuses one or cannot be asked.
pub async fn insert(
    conn: &mut AsyncPgConnection,
    orders: &[impl Borrow<Order>],
) -> Result<(), StorageError> {
    send(conn, orders).await
}

/// Inserts orders and the events that announce them, in one round trip. Call it in a transaction
/// whose beginning Postgres has confirmed: outside of one, each half would commit by itself.
///
/// # Errors
/// When Postgres refuses one or cannot be asked.
pub async fn insert_with_events(
    conn: &mut AsyncPgConnection,
    orders: &[impl Borrow<Order>],
    events: &[impl Borrow<NewEvent>],
) -> Result<(), StorageError> {
    let conn = &*conn;
    let (inserted, appended) = futures::join!(send(conn, orders), append::send(conn, events));
    // If both failed, the second did because the first had.
    inserted.and(appended)
}

/// Whether an order is committed, by this connection or by another one, which may be at it. Changes
/// nothing.
///
/// Looking for the order would not do: its commit may still be under way. Inserting it again waits
/// until it is not, and is then refused if it has happened.
///
/// # Errors
/// When Postgres cannot be asked, or the other commit takes too long.
pub async fn is_committed(
    conn: &mut AsyncPgConnection,
    order: &Order,
) -> Result<bool, StorageError> {
    let probe = conn.transaction(async |conn| {
        insert(conn, &[order]).await?;
        Err::<(), _>(StorageError::Query(DieselError::RollbackTransaction))
    });
    match probe.await {
        Err(StorageError::Query(DieselError::RollbackTransaction)) => Ok(false),
        Err(error) if error.is_duplicate() => Ok(true),
        Err(error) => Err(error),
        Ok(()) => unreachable!("the transaction above never commits"),
    }
}

/// Through a shared connection statements follow each other without waiting for answers.
async fn send(
    mut conn: &AsyncPgConnection,
    orders: &[impl Borrow<Order>],
) -> Result<(), StorageError> {
    let orders = || orders.iter().map(Borrow::borrow);
    let ids: Vec<Uuid> = orders().map(|o: &Order| o.id.as_uuid()).collect();
    let products: Vec<&str> = orders().map(|o: &Order| o.product_id.as_str()).collect();
    let quantities: Vec<i32> = orders().map(|o: &Order| o.quantity.get().into()).collect();
    let times: Vec<OffsetDateTime> = orders().map(|o: &Order| o.created_at).collect();
    cached(INSERT)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Text>, _>(products)
        .bind::<Array<Integer>, _>(quantities)
        .bind::<Array<Timestamptz>, _>(times)
        .execute(&mut conn)
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
    #[diesel(sql_type = Nullable<Timestamptz>)]
    cancelled_at: Option<OffsetDateTime>,
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
            cancelled_at: row.cancelled_at,
        })
    }
}

const FIND: &str = "\
select id, product_id, quantity::bigint, created_at, cancelled_at from orders where id = $1";

const TRY_LOCK: &str = "\
select id, product_id, quantity::bigint, created_at, cancelled_at from orders
where id = $1 for update skip locked";

/// The order of this id, if there is one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn find(
    conn: &mut AsyncPgConnection,
    id: OrderId,
) -> Result<Option<Order>, StorageError> {
    one(conn, FIND, id).await
}

/// The same, locked until the transaction ends; `None` also when another transaction has it locked.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn try_lock(
    conn: &mut AsyncPgConnection,
    id: OrderId,
) -> Result<Option<Order>, StorageError> {
    one(conn, TRY_LOCK, id).await
}

async fn one(
    conn: &mut AsyncPgConnection,
    statement: &'static str,
    id: OrderId,
) -> Result<Option<Order>, StorageError> {
    cached(statement)
        .bind::<SqlUuid, _>(id.as_uuid())
        .get_result::<OrderRow>(conn)
        .await
        .optional()?
        .map(Order::try_from)
        .transpose()
}

const CANCEL: &str = "update orders set cancelled_at = $1 where id = $2";

/// Stores that an order is cancelled. Its event belongs into the same transaction.
///
/// # Errors
/// When Postgres refuses it or cannot be asked.
pub async fn cancel(conn: &mut AsyncPgConnection, order: &Order) -> Result<(), StorageError> {
    cached(CANCEL)
        .bind::<Nullable<Timestamptz>, _>(order.cancelled_at)
        .bind::<SqlUuid, _>(order.id.as_uuid())
        .execute(conn)
        .await?;
    Ok(())
}

/// By primary key, backwards: ids sort by the time of creation.
const NEWEST: &str = "\
select id, product_id, quantity::bigint, created_at, cancelled_at
from orders where id < $1 order by id desc limit $2";

/// Up to `limit` orders that are older than the order `after`, or the newest ones; newest first.
/// `after` need not exist.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn newest(
    conn: &mut AsyncPgConnection,
    after: Option<OrderId>,
    limit: u32,
) -> Result<Vec<Order>, StorageError> {
    cached(NEWEST)
        .bind::<SqlUuid, _>(after.map_or(Uuid::max(), OrderId::as_uuid))
        .bind::<BigInt, _>(i64::from(limit))
        .load::<OrderRow>(conn)
        .await?
        .into_iter()
        .map(Order::try_from)
        .collect()
}
