//! When a task's own connection is kept, and when it is made anew.

use std::time::Duration;

use diesel::sql_types::Integer;
use diesel::{QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use storage::{Connection, DedicatedConnection, Session, StorageError, TransactionError};

use crate::support::Fixture;

const PLENTY: Duration = Duration::from_secs(30);

#[derive(QueryableByName)]
struct Backend {
    #[diesel(sql_type = Integer)]
    pid: i32,
}

/// Which of the server's processes answers.
async fn backend(own: &mut DedicatedConnection) -> i32 {
    let ask = async |conn: &mut Connection| {
        let asked = sql_query("select pg_backend_pid() as pid");
        asked.get_result::<Backend>(conn).await
    };
    own.call(PLENTY, ask).await.unwrap().pid
}

#[tokio::test]
async fn a_connection_is_kept_after_success_only() {
    let fixture = Fixture::new().await;
    let mut own = DedicatedConnection::new(fixture.database.clone(), Session::request("test"));
    let first = backend(&mut own).await;
    assert_eq!(backend(&mut own).await, first);

    let failing = async |conn: &mut Connection| conn.batch_execute("select 1 / 0").await;
    let failed = own.call(PLENTY, failing).await;
    assert!(matches!(failed, Err(StorageError::Query(_))), "{failed:?}");
    let second = backend(&mut own).await;
    assert_ne!(second, first);

    let endless = async |conn: &mut Connection| conn.batch_execute("select pg_sleep(60)").await;
    let late = own.call(Duration::from_millis(50), endless).await;
    assert!(matches!(late, Err(StorageError::Deadline(_))), "{late:?}");
    let third = backend(&mut own).await;
    assert_ne!(third, second);

    tokio::select! {
        biased;
        _ = own.call(PLENTY, endless) => unreachable!("it is asked to sleep for a minute"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    assert_ne!(backend(&mut own).await, third);
}

#[tokio::test]
async fn where_none_can_be_made_the_call_is_not_begun() {
    let nowhere = "postgres://u:p@127.0.0.1:1/d".parse().unwrap();
    let mut own = DedicatedConnection::new(nowhere, Session::request("test"));
    let call = async |_: &mut Connection| -> Result<(), TransactionError> {
        unreachable!("there is nothing to call it on")
    };
    let refused = own.call(PLENTY, call).await;
    assert!(
        matches!(refused, Err(StorageError::Connect { .. })),
        "{refused:?}"
    );
}
