//! What becomes of work whose caller has gone: a client that hangs up drops its request's future.

use std::time::Duration;

use domain::{Order, Quantity};
use local_stack::testing::{TestDatabase, eventually};
use order_api::store::Store;
use order_api::wake_up::WakeUps;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::helpers::{DEADLINE, answer};
use crate::process::Process;
use crate::wire::Client as HttpClient;

/// A store of one connection, and a session that keeps it from writing events until it commits.
async fn locked_store() -> (TestDatabase, Store, Client) {
    let database = TestDatabase::create().await;
    let store = Store::new(
        &database.url().parse().unwrap(),
        1,
        Handle::current(),
        WakeUps::default(),
    );
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table outbox_event")
        .await
        .unwrap();
    (database, store, lock)
}

fn order() -> Order {
    let product = "P-001".parse().unwrap();
    Order::place(product, Quantity::ONE, OffsetDateTime::now_utc())
}

async fn number(sql: &Client, query: &str) -> i64 {
    sql.query_one(query, &[]).await.unwrap().get(0)
}

/// Until an order's transaction waits for the lock.
pub(crate) async fn until_stuck(sql: &Client) {
    until_so_many_are_stuck(sql, 1).await;
}

async fn until_so_many_are_stuck(sql: &Client, orders: i64) {
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                   and application_name = 'order-api' and wait_event_type = 'Lock'";
    eventually("an order to wait for the lock", DEADLINE, async || {
        (number(sql, waiting).await == orders).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_order_that_is_being_placed_is_placed_even_if_nobody_waits_any_more() {
    let (database, store, lock) = locked_store().await;
    let sql = database.connect().await;
    tokio::select! {
        outcome = store.place(order().into()) => panic!("{outcome:?} although the table is locked"),
        () = until_stuck(&sql) => {}
    }
    lock.batch_execute("commit").await.unwrap();
    eventually("the order and its event", DEADLINE, async || {
        let both = "select count(*) from orders join outbox_event on key = orders.id::text";
        (number(&sql, both).await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_order_that_waits_for_a_connection_is_given_up_with_its_caller() {
    let (database, store, lock) = locked_store().await;
    let sql = database.connect().await;
    let first = store.place(order().into());
    let second = async {
        until_stuck(&sql).await;
        let waiting = store.place(order().into());
        assert!(
            tokio::time::timeout(Duration::from_millis(50), waiting)
                .await
                .is_err()
        );
        lock.batch_execute("commit").await.unwrap();
    };
    let (first, ()) = tokio::join!(first, second);
    first.unwrap();
    // The one connection is free again, so whatever waited for it has had its turn.
    assert!(store.missing_migrations().await.unwrap().is_empty());
    assert_eq!(number(&sql, "select count(*) from orders").await, 1);
}

/// Sends an order, and nothing more for now.
async fn order_from(api: &Process, product: &str) -> HttpClient {
    let body = format!(r#"{{"productId":"{product}"}}"#);
    let length = body.len();
    let request = format!(
        "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let mut client = HttpClient::connect(api.address).await;
    client.0.write_all(request.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn an_order_whose_client_hung_up_before_a_writer_took_it_is_not_placed() {
    let database = TestDatabase::create().await;
    let api = Process::serve(database.url(), &[]).await;
    let ops = api.spawned.ops_address(DEADLINE).await;
    let (sql, lock) = (database.connect().await, database.connect().await);
    lock.batch_execute("begin; lock table outbox_event")
        .await
        .unwrap();
    // Each of the writers has one.
    let mut taken = Vec::new();
    for orders in 1..=2 {
        taken.push(order_from(&api, "taken").await);
        until_so_many_are_stuck(&sql, orders).await;
    }
    let waiting = order_from(&api, "waiting").await;
    eventually("the order to wait for a writer", DEADLINE, async || {
        let metrics = reqwest::get(format!("http://{ops}/metrics")).await.unwrap();
        let metrics = metrics.text().await.unwrap();
        metrics.contains("orders_waiting 1\n").then_some(())
    })
    .await;
    drop(waiting);
    api.line("client disconnected").await;
    lock.batch_execute("commit").await.unwrap();
    // Taken after the one that has gone, and so it shows what became of that.
    let last = reqwest::Client::new().post(api.url("/orders"));
    let last = last.header("content-type", "application/json");
    answer(last.body(r#"{"productId":"last"}"#))
        .await
        .order_id();
    // Those that were taken may have waited for too long where the disk is slow.
    let others = "select string_agg(product_id, ' ') from orders where product_id <> 'taken'";
    let others: String = sql.query_one(others, &[]).await.unwrap().get(0);
    assert_eq!(others, "last");
}
