//! Commits shared under load: nobody fails for a neighbour or is cancelled by one. Orders are handed
//! in before a writer runs, so that what becomes a batch is no matter of timing.

use std::pin::pin;
use std::time::{Duration, Instant};

use domain::{Order, Quantity};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use local_stack::testing::TestDatabase;
use order_api::metrics::Metrics;
use order_api::store::{KEY_LIFETIME, Placed, Placement, Store, StoreError, Writer, group_commit};
use order_api::wake_up::WakeUps;
use prometheus_client::registry::Registry;
use service::CancellationToken;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::helpers::TestApp;

/// A store whose writers do not run yet.
struct Still {
    store: Store,
    writers: Vec<Writer>,
    sql: Client,
    database: TestDatabase,
}

fn order(product: &str) -> Order {
    let product = product.parse().unwrap();
    Order::place(product, Quantity::ONE, OffsetDateTime::now_utc())
}

type Outcome = Result<Placed, StoreError>;

impl Still {
    async fn start() -> Self {
        let database = TestDatabase::create().await;
        let sql = database.connect().await;
        let url = database.url().parse().unwrap();
        let wake_ups = WakeUps::default();
        let store = Store::new(&url, 1, Handle::current(), wake_ups.clone());
        let metrics = Metrics::register(&mut Registry::default(), store.pool().clone());
        let (queue, writers) = group_commit(&url, &wake_ups, &metrics, KEY_LIFETIME);
        let store = store.with_group_commit(queue);
        Self {
            store,
            writers,
            sql,
            database,
        }
    }

    /// Hands an order in.
    fn hand_in(&self, product: &str) -> BoxFuture<'static, Outcome> {
        let order = order(product);
        let store = self.store.clone();
        let mut placing = async move { store.place(Placement::from(order)).await }.boxed();
        assert!((&mut placing).now_or_never().is_none(), "nobody writes yet");
        placing
    }

    /// Runs one writer until these are answered.
    async fn write<T>(&mut self, answers: impl Future<Output = T>) -> T {
        let stop = CancellationToken::new();
        let writer = self.writers.pop().unwrap();
        let answers = async {
            let answers = answers.await;
            stop.cancel();
            answers
        };
        tokio::join!(writer.run(stop.clone()), answers).1
    }

    async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn stored(&self) -> (i64, i64) {
        let orders = self.number("select count(*) from orders").await;
        (
            orders,
            self.number("select count(*) from outbox_event").await,
        )
    }
}

#[tokio::test]
async fn orders_that_wait_share_commits_of_up_to_128() {
    let mut still = Still::start().await;
    let waiting: Vec<_> = (0..300).map(|_| still.hand_in("P")).collect();
    for outcome in still.write(join_all(waiting)).await {
        outcome.unwrap();
    }
    assert_eq!(still.stored().await, (300, 300));
    // The orders of a transaction have its number.
    let sizes = "select string_agg(n::text, ' ' order by n) from
                 (select count(*) n from orders group by xmin) t";
    let sizes: String = still.sql.query_one(sizes, &[]).await.unwrap().get(0);
    assert_eq!(sizes, "44 128 128");
}

#[tokio::test]
async fn nobody_fails_for_a_neighbour_that_is_refused() {
    let mut still = Still::start().await;
    let refuse = "alter table orders add check (product_id <> 'poison') not valid";
    still.sql.batch_execute(refuse).await.unwrap();
    let is_poison = |n: &usize| n % 10 == 5;
    let waiting: Vec<_> = (0..40)
        .map(|n| still.hand_in(if is_poison(&n) { "poison" } else { "P" }))
        .collect();
    let outcomes = still.write(join_all(waiting)).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        if is_poison(&n) {
            assert!(matches!(outcome, Err(StoreError::Failed(_))), "{outcome:?}");
        } else {
            assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
    assert_eq!(still.stored().await, (36, 36));
}

#[tokio::test]
async fn nobody_fails_for_a_neighbour_that_loses_the_connection() {
    let mut still = Still::start().await;
    still
        .sql
        .batch_execute(
            "create function die() returns trigger language plpgsql as $$ begin
                 if new.product_id = 'poison' then
                     perform pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
                 end if;
                 return new;
             end $$;
             create trigger die before insert on orders for each row execute function die()",
        )
        .await
        .unwrap();
    let products = ["P", "P", "poison", "P", "P"];
    let waiting = products.map(|product| still.hand_in(product));
    let outcomes = still.write(join_all(waiting)).await;
    let placed: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(placed, [true, true, false, true, true]);
    assert!(matches!(outcomes[2], Err(StoreError::Unavailable(_))));
    assert_eq!(still.stored().await, (4, 4));
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_own_waiting_order_alone() {
    let mut still = Still::start().await;
    let quitters: Vec<_> = (0..10).map(|_| still.hand_in("quits")).collect();
    let stayers: Vec<_> = (0..10).map(|_| still.hand_in("stays")).collect();
    drop(quitters);
    for outcome in still.write(join_all(stayers)).await {
        outcome.unwrap();
    }
    let stay = "select count(*) from orders where product_id = 'stays'";
    assert_eq!(still.number(stay).await, 10);
    assert_eq!(still.stored().await, (10, 10));
}

#[tokio::test]
async fn an_order_that_was_taken_is_placed_although_its_client_hangs_up() {
    let mut still = Still::start().await;
    let lock = still.database.connect().await;
    lock.batch_execute("begin; lock table outbox_event")
        .await
        .unwrap();
    let observer = still.database.connect().await;
    let quitter = still.hand_in("quits");
    let stayer = still.hand_in("stays");
    let story = async move {
        tokio::select! {
            outcome = quitter => panic!("{outcome:?} although the table is locked"),
            () = crate::store::until_stuck(&observer) => {}
        }
        lock.batch_execute("commit").await.unwrap();
        stayer.await
    };
    Box::pin(still.write(story)).await.unwrap();
    assert_eq!(still.stored().await, (2, 2));
}

#[tokio::test]
async fn more_than_the_queue_holds_is_refused_at_once_and_the_rest_in_time() {
    let mut still = Still::start().await;
    let store = still.store.clone();
    let begun = Instant::now();
    let waiting: Vec<_> = (0..1_024).map(|_| still.hand_in("late")).collect();
    let refused = pin!(store.place(order("P").into())).now_or_never();
    assert!(matches!(refused, Some(Err(StoreError::Busy(_)))));
    for outcome in join_all(waiting).await {
        assert!(matches!(outcome, Err(StoreError::Busy(_))), "{outcome:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
    // None of those that were refused is placed once a writer looks.
    let emptied = async {
        local_stack::testing::eventually(
            "room in the queue",
            crate::helpers::DEADLINE,
            async || store.place(order("P").into()).await.ok(),
        )
        .await;
    };
    still.write(emptied).await;
    assert_eq!(still.stored().await, (1, 1));
}

#[tokio::test]
async fn an_idle_writer_whose_connection_was_lost_places_the_next_order() {
    let app = TestApp::start().await;
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name = 'order-api'";
    for _ in 0..5 {
        app.api.post(r#"{"productId":"P"}"#).await.order_id();
        assert!(app.number(kill).await >= 1);
    }
    app.api.post(r#"{"productId":"P"}"#).await.order_id();
    assert_eq!(app.stored().await, (6, 6, 6));
}
