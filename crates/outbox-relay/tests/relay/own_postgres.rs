//! A Postgres of a test's own, to be loaded, stopped and killed without disturbing the others.

use std::sync::Arc;

use local_stack::testing::{PostgresServer, TestDatabase};
use tokio_postgres::Client;

use crate::own_kafka::blocking;

/// Gone with this value.
pub(crate) struct OwnPostgres {
    server: Arc<PostgresServer>,
}

impl OwnPostgres {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings beside those that any Postgres here has.
    pub(crate) async fn start_with(settings: &'static [(&str, &str)]) -> Self {
        let server = blocking(|| PostgresServer::start_empty(settings)).await;
        Self {
            server: Arc::new(server),
        }
    }

    /// Another migrated database in it.
    pub(crate) async fn database(&self) -> TestDatabase {
        TestDatabase::create_on(&self.server.url()).await
    }

    /// A connection to its own database, which is empty.
    pub(crate) async fn connect(&self) -> Client {
        self.server.connect().await
    }

    pub(crate) async fn stop(&self) {
        self.having(PostgresServer::stop).await;
    }

    pub(crate) async fn kill(&self) {
        self.having(PostgresServer::kill).await;
    }

    /// Returns as soon as it answers.
    pub(crate) async fn start_again(&self) {
        self.having(PostgresServer::start_again).await;
    }

    async fn having(&self, call: fn(&PostgresServer)) {
        let server = Arc::clone(&self.server);
        blocking(move || call(&server)).await;
    }
}
