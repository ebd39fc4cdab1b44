//! For tests: a database and topics of their own on the default stack, what stands between or beside
//! the processes, and waiting for a condition.
//!
//! What is in here panics instead of returning errors: a test can do nothing else with them.

pub mod admin;
mod collector;
mod detour;
mod kafka_proxy;
mod kafka_server;
mod mute;
mod postgres_server;
mod raw_batch;
mod spawned;
mod switch;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio_postgres::Client;
use url::Url;
use uuid::Uuid;

use crate::postgres::{block_on, connect, describe};
use crate::stack::Stack;

pub use admin::{Quota, delete_topic, set_quota};
pub use collector::{Collector, Manners, SentSpan};
pub use detour::detour;
pub use kafka_proxy::{Fault, KafkaProxy};
pub use kafka_server::KafkaServer;
pub use mute::Mute;
pub use postgres_server::PostgresServer;
pub use raw_batch::{RawBatch, RawRecord, set_checksum};
pub use spawned::Spawned;
pub use switch::Switch;

/// Held while the template is looked for and made. Any constant of our own will do.
const TEMPLATE_LOCK: i64 = 0x7465_6d70_6c61_7465;

/// How long a test that is over waits for its database to go.
const DROP_LIMIT: Duration = Duration::from_secs(10);

/// A migrated database of its own for one test, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    url: Url,
    maintenance: Url,
    name: String,
}

impl TestDatabase {
    /// A copy of a template that is migrated once; starts the default stack if need be.
    ///
    /// # Panics
    /// When the stack cannot be started or Postgres refuses.
    pub async fn create() -> Self {
        Self::create_on(&running_stack().await.database_url).await
    }

    /// The same on a server of the caller's own, which must outlive it.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn create_on(url: &str) -> Self {
        let url = Url::parse(url).expect("a server's own URL is one");
        let maintenance = with_database(&url, "postgres");
        let client = connect(maintenance.as_str())
            .await
            .expect("connecting to the local stack's Postgres");
        let template = ensure_template(&client, &maintenance).await;
        let name = format!("test_{}", Uuid::now_v7().simple());
        // Copying files takes two checkpoints, which wait for what everybody else has written.
        client
            .batch_execute(&format!(
                "create database {name} template {template} strategy wal_log"
            ))
            .await
            .expect("copying the template database");
        Self {
            url: with_database(&url, &name),
            maintenance,
            name,
        }
    }

    /// As in `DATABASE_URL`.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// A connection for SQL of the test's own. It is driven by a task of the current runtime.
    ///
    /// # Panics
    /// When Postgres refuses.
    pub async fn connect(&self) -> Client {
        connect(self.url())
            .await
            .expect("connecting to the test's database")
    }
}

impl Drop for TestDatabase {
    /// Best effort: a database that stays is gone with the next `down`.
    fn drop(&mut self) {
        let (maintenance, name) = (self.maintenance.clone(), self.name.clone());
        let (done, wait) = mpsc::channel();
        thread::spawn(move || {
            let dropped = block_on(async || {
                let client = connect(maintenance.as_str()).await?;
                client
                    .batch_execute(&format!("drop database if exists {name} with (force)"))
                    .await
            });
            // Nobody waits any more when the limit is over.
            let _ = done.send(dropped);
        });
        match wait.recv_timeout(DROP_LIMIT) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("database {} stays: {}", self.name, describe(&error)),
            Err(_) => eprintln!(
                "database {} stays: no answer within {DROP_LIMIT:?}",
                self.name
            ),
        }
    }
}

async fn running_stack() -> Stack {
    let started = tokio::task::spawn_blocking(crate::up)
        .await
        .expect("starting the local stack does not panic");
    started.unwrap_or_else(|error| panic!("the local stack cannot be started: {error}"))
}

fn with_database(url: &Url, name: &str) -> Url {
    let mut url = url.clone();
    url.set_path(name);
    url
}

/// The name of the template for the migrations this program was built with.
///
/// It is migrated under another name first: a template that exists is whole, whenever its making
/// was killed.
async fn ensure_template(client: &Client, maintenance: &Url) -> String {
    let template = format!("outbox_template_{}", storage::migrations::FINGERPRINT);
    if exists(client, &template).await {
        return template;
    }
    // Of the session, since databases are not made in transactions; given back below or with the
    // connection.
    client
        .execute("select pg_advisory_lock($1)", &[&TEMPLATE_LOCK])
        .await
        .expect("taking the template's lock");
    if !exists(client, &template).await {
        let unfinished = format!("{template}_unfinished");
        run(
            client,
            &format!("drop database if exists {unfinished} with (force)"),
        )
        .await;
        run(client, &format!("create database {unfinished}")).await;
        migrate(with_database(maintenance, &unfinished)).await;
        // Nobody connects to it from here on, so it can always be copied.
        run(
            client,
            &format!("alter database {unfinished} with allow_connections false is_template true"),
        )
        .await;
        run(
            client,
            &format!("alter database {unfinished} rename to {template}"),
        )
        .await;
    }
    client
        .execute("select pg_advisory_unlock($1)", &[&TEMPLATE_LOCK])
        .await
        .expect("giving the template's lock back");
    template
}

async fn exists(client: &Client, database: &str) -> bool {
    let found = client
        .query_opt("select 1 from pg_database where datname = $1", &[&database])
        .await;
    found.expect("looking for the template database").is_some()
}

async fn run(client: &Client, statement: &str) {
    if let Err(error) = client.batch_execute(statement).await {
        panic!("{statement}: {}", describe(&error));
    }
}

/// On a thread of its own: migrating needs a multi-thread runtime, which a test's need not be.
async fn migrate(url: Url) {
    let database: storage::Database = url.as_str().parse().expect("the stack's own URL is one");
    let migrate = move || block_on(async || storage::migrations::migrate(&database).await);
    let migrated = tokio::task::spawn_blocking(migrate)
        .await
        .expect("migrating does not panic");
    migrated.unwrap_or_else(|error| panic!("migrating the template database: {error}"));
}

/// Different ports on which nothing listens, for servers that are started with a port.
///
/// # Panics
/// When there are none.
pub fn free_ports<const N: usize>() -> [u16; N] {
    crate::ports::free().unwrap_or_else(|error| panic!("no free ports: {error}"))
}

/// `prefix-<uuid>`: a topic that no other test uses.
pub fn unique_topic(prefix: &str) -> String {
    format!("{prefix}-{}", Uuid::now_v7())
}

/// Asks again and again until there is a value, and returns it. What asking costs counts towards
/// the deadline.
///
/// # Panics
/// At the deadline, with `what` was waited for.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let asking = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(deadline, asking).await;
    answer.unwrap_or_else(|_| panic!("waited {deadline:?} in vain for {what}"))
}
