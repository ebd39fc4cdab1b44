//! What requests read of the database must cost what they ask for, not what is there: counted in
//! buffers, on the sessions that requests have, over enough executions for a plan that serves every
//! value, and with statistics that are absent, of other times, or true.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use domain::OrderId;
use local_stack::testing::TestDatabase;
use storage::idempotency::{self, KeptAnswer, KeyState};
use storage::{Connection, Database, Session, journey, orders};
use tokio_postgres::Client;
use uuid::Uuid;

/// A session tells what it has touched now and then, unless it is asked to do so.
const FLUSH: &str = "select pg_stat_force_next_flush()";
/// Rows in each table.
const ROWS: u32 = 200_000;
const LIFETIME: Duration = Duration::from_hours(24);
/// Postgres keeps to one plan for all values after five executions.
const EXECUTIONS: u32 = 12;

/// Orders of these numbers, and keys. Of each ten, the events of eight are delivered, one waits and
/// one is held; all count as consumed, and of each twenty one is dead-lettered as well.
fn fill(from: u32, to: u32) -> String {
    format!(
        "insert into orders (id, product_id, quantity)
             select lpad(to_hex(n), 32, '0')::uuid, 'P', 1 from generate_series({from}, {to}) n;
         insert into outbox_event (event_id, topic, key, event_type, payload)
             select lpad(to_hex(n), 32, '0')::uuid, 'order.created',
                    lpad(to_hex(n), 32, '0')::uuid::text, 'OrderCreated', '{{}}'
             from generate_series({from}, {to}) n;
         with moved as (delete from outbox_pending where id % 10 <> 1 and id >= {from} returning slot, id),
         held as (insert into outbox_held (bytes, id, slot, topic, key, cause)
             select 10, id, slot, 'order.created', id::text, 'unavailable' from moved where id % 10 = 2)
             insert into outbox_published (id, kafka_partition, kafka_offset)
             select id, id % 6, id / 6 from moved where id % 10 <> 2;
         insert into inbox_offset (consumer_group, topic, partition, next_offset)
             select 'order-group', 'order.created', n, {to} from generate_series(0, 5) n
             on conflict do nothing;
         insert into inbox (consumer_group, event_id, topic, partition, \"offset\")
             select 'order-group', lpad(to_hex(n), 32, '0')::uuid, 'order.created', n % 6, n / 6
             from generate_series({from}, {to}) n;
         insert into inbox_dead_letter (consumer_group, topic, partition, \"offset\", cause, reason)
             select 'order-group', 'order.created', n % 6, n / 6, 'dead', 'no JSON'
             from generate_series({from}, {to}) n where n % 20 = 0;
         insert into idempotency_key (key, request_hash, status, response, order_id, created_at)
             select 'key-' || n, sha256(n::text::bytea), 201, '{{}}', lpad(to_hex(n), 32, '0')::uuid,
                    now() - (n % 48) * interval '1 hour'
             from generate_series({from}, {to}) n;"
    )
}

/// A database without a service, which would do work of its own in it.
struct Tables {
    sql: Client,
    database: TestDatabase,
}

impl Tables {
    /// Full tables; `first` is done when there are a few rows.
    async fn filled(first: &str) -> Self {
        let database = TestDatabase::create().await;
        let sql = database.connect().await;
        let unwatched = "do $$ declare name text; begin
                             for name in select relname from pg_stat_user_tables loop
                                 execute format('alter table %I set (autovacuum_enabled = off)', name);
                             end loop;
                         end $$";
        let tables = Self { sql, database };
        for statements in [unwatched, &fill(1, 1_000), first, &fill(1_001, ROWS)] {
            tables.run(statements).await;
        }
        tables
    }

    /// What it touches is counted before it returns, not some time during what follows.
    async fn run(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap();
        self.sql.batch_execute(FLUSH).await.unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// As requests have it.
    async fn connect(&self) -> Connection {
        let database: Database = self.database.url().parse().unwrap();
        database.connect(&Session::request("test")).await.unwrap()
    }
}

/// What a statement touched.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Touched {
    buffers: i64,
    /// Walks over whole tables.
    walks: i64,
}

async fn touched_so_far(tables: &Tables, conn: &mut Connection) -> Touched {
    conn.batch_execute(FLUSH).await.unwrap();
    let buffers = "select sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0)
                              + coalesce(idx_blks_hit, 0) + coalesce(toast_blks_hit, 0))::bigint
                   from pg_statio_user_tables";
    // There is a row in this one for each partition of a topic, and nothing else to find them by.
    let walks = "select sum(seq_scan)::bigint from pg_stat_user_tables
                 where relname <> 'inbox_offset'";
    Touched {
        buffers: tables.number(buffers).await,
        walks: tables.number(walks).await,
    }
}

/// Executes again and again and returns what the costliest execution touched.
async fn cost(tables: &Tables, mut execute: impl AsyncFnMut(&mut Connection, u32)) -> Touched {
    let mut conn = tables.connect().await;
    let mut before = touched_so_far(tables, &mut conn).await;
    let mut most = Touched {
        buffers: 0,
        walks: 0,
    };
    for n in 0..EXECUTIONS {
        execute(&mut conn, n).await;
        let now = touched_so_far(tables, &mut conn).await;
        most.buffers = most.buffers.max(now.buffers - before.buffers);
        most.walks = most.walks.max(now.walks - before.walks);
        before = now;
    }
    most
}

/// The id of the nth order, from the newest on.
fn id(n: u32) -> OrderId {
    Uuid::from_u128(u128::from(ROWS - n * 1_000)).into()
}

#[tokio::test]
async fn orders_and_keys_cost_what_is_asked_for_without_statistics_and_with_true_ones() {
    let tables = Tables::filled("").await;
    expect_small("no statistics", costs(&tables).await);
    tables.run("analyze").await;
    expect_small("true statistics", costs(&tables).await);
}

#[tokio::test]
async fn orders_and_keys_cost_what_is_asked_for_with_statistics_of_when_there_were_few() {
    let tables = Tables::filled("analyze").await;
    expect_small("statistics of few rows", costs(&tables).await);
}

#[tokio::test]
async fn a_journey_and_forgetting_keys_cost_what_is_asked_for() {
    for first in ["", "analyze"] {
        let tables = Tables::filled(first).await;
        let costs = [
            cost_of_journey(&tables).await,
            cost_of_forgetting(&tables).await,
        ];
        expect_small("statistics absent, or of few rows", costs);
        tables.run("analyze").await;
        let costs = [
            cost_of_journey(&tables).await,
            cost_of_forgetting(&tables).await,
        ];
        expect_small("true statistics", costs);
    }
}

fn expect_small(statistics: &str, costs: impl IntoIterator<Item = Cost>) {
    for (name, most, touched) in costs {
        let context = format!("{name}, {statistics}: {touched:?} of {most}");
        println!("{context}");
        assert!(touched.buffers > 0, "nothing was counted of {context}");
        assert!(touched.buffers <= most, "{context}");
        assert_eq!(touched.walks, 0, "{context}");
    }
}

/// What is asked for, the buffers it may touch, and those that it touched.
type Cost = (&'static str, i64, Touched);

async fn costs(tables: &Tables) -> [Cost; 6] {
    let newest = cost(tables, async |conn, _| {
        let page = orders::newest(conn, None, 101).await.unwrap();
        assert_eq!((page.len(), page[0].id), (101, id(0)));
    });
    let newest = ("the first page", 40, newest.await);
    let page = cost(tables, async |conn, n| {
        let page = orders::newest(conn, Some(id(n)), 101).await.unwrap();
        assert_eq!(page.len(), 101);
    });
    let page = ("a later page", 40, page.await);
    let by_id = cost(tables, async |conn, n| {
        assert!(orders::find(conn, id(n)).await.unwrap().is_some());
    });
    let by_id = ("an order", 10, by_id.await);
    let one = cost(tables, async |conn, n| {
        let key = format!("key-{}", 48 * (n + 1));
        let claims = idempotency::claim(conn, &[&key], LIFETIME).await.unwrap();
        assert!(matches!(claims[0], KeyState::Kept(_)), "{key}");
    });
    let one = ("a key", 10, one.await);
    let batch = cost(tables, async |conn, n| {
        let keys: Vec<String> = (0..128)
            .map(|k| format!("key-{}", 48 * (n * 128 + k + 1)))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let claims = idempotency::claim(conn, &keys, LIFETIME).await.unwrap();
        assert!(
            claims
                .iter()
                .all(|claim| matches!(claim, KeyState::Kept(_)))
        );
    });
    let batch = ("128 keys", 1_000, batch.await);
    let kept = cost(tables, async |conn, _| {
        let answer = KeptAnswer {
            key: format!("new-{}", Uuid::now_v7()),
            request_hash: vec![0; 32],
            status: 201,
            response: "{}".to_owned(),
            order: id(0),
        };
        idempotency::keep(conn, &[&answer], LIFETIME).await.unwrap();
    });
    let kept = ("keeping an answer", 40, kept.await);
    [newest, page, by_id, one, batch, kept]
}

async fn cost_of_journey(tables: &Tables) -> Cost {
    let journey = cost(tables, async |conn, n| {
        let events = journey::of_order(conn, id(n)).await.unwrap();
        assert_eq!((events.len(), events[0].consumed.len()), (1, 2));
    });
    ("a journey", 60, journey.await)
}

async fn cost_of_forgetting(tables: &Tables) -> Cost {
    let forgotten = cost(tables, async |conn, _| {
        let forgotten = idempotency::delete_expired(conn, LIFETIME, 1_000).await;
        assert_eq!(forgotten.unwrap(), 1_000);
    });
    ("forgetting 1,000 keys", 20_000, forgotten.await)
}
