//! Hosts that do not answer, beside one that does.

use std::time::{Duration, Instant};

use diesel_async::SimpleAsyncConnection;
use local_stack::testing::{Mute, eventually};
use storage::{Connection, Database, DedicatedConnection, Session, StorageError};

use crate::support::Fixture;

impl Fixture {
    /// The test's database, with these addresses named first.
    fn behind(&self, first: &[&Mute], parameters: &str) -> Database {
        let named: Vec<_> = first.iter().map(|m| m.address().to_string()).collect();
        let url = self
            .test
            .url()
            .replace('@', &format!("@{},", named.join(",")));
        format!("{url}?{parameters}").parse().unwrap()
    }
}

async fn connect(database: &Database) -> Result<Connection, StorageError> {
    database.connect(&Session::request("test")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_mute_and_named_first_costs_a_moment() {
    let fixture = Fixture::new().await;
    let (accepting, dropping) = (Mute::accepting().await, Mute::dropping().await);
    for first in [
        vec![&accepting],
        vec![&dropping],
        vec![&accepting, &dropping, &accepting, &dropping, &accepting],
    ] {
        let database = fixture.behind(&first, "");
        let begun = Instant::now();
        let connected = connect(&database).await;
        let took = begun.elapsed();
        assert!(connected.is_ok(), "{:?}", connected.err());
        assert!(took < Duration::from_secs(4), "{took:?}");
        // The one that answered is asked first from then on.
        let begun = Instant::now();
        connect(&database).await.unwrap();
        let again = begun.elapsed();
        assert!(
            again < Duration::from_millis(240).max(took / 2),
            "{again:?}, then {took:?}"
        );
    }
}

#[tokio::test]
async fn a_connect_timeout_is_kept() {
    let mute = Mute::accepting().await;
    let url = |seconds| {
        format!(
            "postgres://u:p@{}/d?connect_timeout={seconds}",
            mute.address()
        )
    };
    for (seconds, limits) in [(1, 900..2_500), (7, 6_900..8_500)] {
        let database: Database = url(seconds).parse().unwrap();
        let begun = Instant::now();
        let error = connect(&database).await.err().unwrap();
        let took = begun.elapsed().as_millis();
        assert!(limits.contains(&took), "{took} ms for {seconds} s");
        assert!(matches!(error, StorageError::Connect { .. }), "{error:?}");
        let address = mute.address().to_string();
        assert!(error.to_string().contains(&address), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_cancelled_where_it_runs() {
    let fixture = Fixture::new().await;
    let mute = Mute::accepting().await;
    let database = fixture.behind(&[&mute], "");
    let mut own = DedicatedConnection::new(database, Session::request("cancelled"));
    let endless = async |conn: &mut Connection| conn.batch_execute("select pg_sleep(3)").await;
    let late = own.call(Duration::from_millis(200), endless).await;
    assert!(matches!(late, Err(StorageError::Deadline(_))), "{late:?}");
    own.cancel().await;
    let running = "select count(*) from pg_stat_activity
                   where datname = current_database() and query like 'select pg_sleep%'
                     and state = 'active'";
    eventually("its end", Duration::from_secs(1), async || {
        (fixture.number(running).await == 0).then_some(())
    })
    .await;
}
