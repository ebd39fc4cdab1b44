//! No connection stays with a server that cannot be written, whatever it is used for.

use std::time::{Duration, Instant};

use diesel::sql_types::Integer;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use local_stack::testing::{PostgresServer, Switch, eventually};
use storage::{Connection, Database, DedicatedConnection, Session, StorageError};
use tokio_postgres::Client;

use crate::support::Fixture;

const PATIENCE: Duration = Duration::from_secs(20);
/// How soon a connection to a server that turned read-only is no longer used.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

#[derive(QueryableByName)]
struct Port {
    #[diesel(sql_type = Integer)]
    port: i32,
}

/// Which server answers.
async fn port(conn: &mut Connection) -> Result<u16, StorageError> {
    let asked = sql_query("select current_setting('port')::int as port");
    let port: Port = asked.get_result(conn).await?;
    Ok(port.port.try_into().unwrap())
}

async fn own_port(own: &mut DedicatedConnection) -> Result<u16, StorageError> {
    own.call(PATIENCE, port).await
}

fn at(ports: &[u16], parameters: &str) -> Database {
    let hosts: Vec<_> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let hosts = hosts.join(",");
    let url = format!("postgres://outbox:outbox@{hosts}/outbox?{parameters}");
    url.parse().unwrap()
}

async fn until_it_follows(primary: &Client) {
    eventually("the standby to follow", PATIENCE, async || {
        let following = "select count(*) from pg_stat_replication where state = 'streaming'";
        let following: i64 = primary.query_one(following, &[]).await.unwrap().get(0);
        (following > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_never_used_and_a_promoted_one_is() {
    let primary = PostgresServer::start(&[]);
    let standby = primary.standby(&[]);
    until_it_follows(&primary.connect().await).await;
    let session = Session::request("test");

    let both = at(&[standby.port(), primary.port()], "");
    let mut own = DedicatedConnection::new(both.clone(), session.clone());
    assert_eq!(own_port(&mut own).await.unwrap(), primary.port());
    let pool = both.pool(&session, 2, PATIENCE);
    let mut pooled = pool.get().await.unwrap();
    assert_eq!(port(&mut pooled).await.unwrap(), primary.port());
    drop(pooled);

    let alone = at(&[standby.port()], "");
    let refused = alone.connect(&session).await.err().unwrap().to_string();
    assert!(refused.contains("cannot be written"), "{refused}");
    let any = at(&[standby.port()], "target_session_attrs=any");
    any.connect(&session).await.unwrap();

    primary.kill();
    standby.promote().await;
    let begun = Instant::now();
    eventually("the promoted one", PATIENCE, async || {
        (own_port(&mut own).await.ok()? == standby.port()).then_some(())
    })
    .await;
    let mut pooled = pool.get().await.unwrap();
    assert_eq!(port(&mut pooled).await.unwrap(), standby.port());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_made_while_the_address_leads_to_a_standby_is_not_kept() {
    let primary = PostgresServer::start(&[]);
    let standby = primary.standby(&[("recovery_min_apply_delay", "2s")]);
    let switch = Switch::start(standby.port()).await;
    let (database, session) = (at(&[switch.port()], ""), Session::request("test"));
    let mut own = DedicatedConnection::new(database.clone(), session.clone());
    let pool = database.pool(&session, 2, PATIENCE);
    let _ = own_port(&mut own).await;
    let _ = pool.get().await;
    switch.lead_to(primary.port());
    assert_eq!(own_port(&mut own).await.unwrap(), primary.port());
    let mut pooled = pool.get().await.unwrap();
    assert_eq!(port(&mut pooled).await.unwrap(), primary.port());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_turns_read_only_is_left() {
    let [first, second] = [PostgresServer::start(&[]), PostgresServer::start(&[])];
    let both = at(&[first.port(), second.port()], "");
    let session = Session::request("test");
    let mut own = DedicatedConnection::new(both.clone(), session.clone());
    let pool = both.pool(&session, 1, PATIENCE);
    assert_eq!(own_port(&mut own).await.unwrap(), first.port());
    assert_eq!(
        port(&mut pool.get().await.unwrap()).await.unwrap(),
        first.port()
    );

    let sql = first.connect().await;
    for statement in [
        "alter system set default_transaction_read_only = on",
        "select pg_reload_conf()",
    ] {
        sql.batch_execute(statement).await.unwrap();
    }
    // Nothing is ever written on these connections.
    eventually("the other one", NOTICED_WITHIN, async || {
        (own_port(&mut own).await.unwrap() == second.port()).then_some(())
    })
    .await;
    eventually("the other one, by the pool", NOTICED_WITHIN, async || {
        let mut pooled = pool.get().await.unwrap();
        (port(&mut pooled).await.unwrap() == second.port()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_read_only_database_is_refused() {
    let fixture = Fixture::new().await;
    let name = fixture.text("select current_database()::text").await;
    fixture
        .run(&format!(
            "alter database {name} set default_transaction_read_only = on"
        ))
        .await;
    let refused = fixture.database.connect(&Session::request("test")).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("cannot be written"), "{refused}");
}
