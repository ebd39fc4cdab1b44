//! The command `migrate`, as a library call. Its output is looked at in `executable`.

use std::time::Duration;

use local_stack::testing::TestDatabase;
use order_api::migrate::migrate_within;
use storage::Database;

use crate::proxy;

fn fresh(database: &TestDatabase) -> Database {
    let url = format!("{}?schema=fresh", database.url());
    url.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_again_or_twice_at_once_applies_everything_once() {
    let database = TestDatabase::create().await;
    let fresh = fresh(&database);
    let migrate = || migrate_within(&fresh, Duration::ZERO);
    let (first, second) = tokio::join!(migrate(), migrate());
    let mut applied = [first.unwrap().len(), second.unwrap().len()];
    applied.sort_unstable();
    let sql = database.connect().await;
    let all = "select count(*) from public.__diesel_schema_migrations";
    let all: i64 = sql.query_one(all, &[]).await.unwrap().get(0);
    assert_eq!(applied, [0, usize::try_from(all).unwrap()]);
    assert_eq!(migrate().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_waits_for_postgres_and_not_for_ever() {
    let away: Database = proxy::closed().await.parse().unwrap();
    let patience = Duration::from_millis(500);
    let error = migrate_within(&away, patience).await.unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
}
