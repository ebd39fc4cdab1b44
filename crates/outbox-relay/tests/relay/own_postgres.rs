//! A Postgres of a test's own, to be loaded, stopped and killed without disturbing the others.

use std::path::PathBuf;

use local_stack::testing::unique_topic;
use local_stack::{Server, Stack, StackDir};
use tokio_postgres::{Client, NoTls};

use crate::own_kafka::blocking;

/// Gone with this value.
pub(crate) struct OwnPostgres {
    dir: StackDir,
    folder: PathBuf,
    pub(crate) stack: Stack,
    pub(crate) url: String,
}

impl OwnPostgres {
    pub(crate) async fn start() -> Self {
        let folder = std::env::temp_dir().join(unique_topic("own-postgres"));
        let dir = StackDir::new(&folder);
        let stack = blocking(&dir, |dir| {
            let stack = dir.up()?;
            // Topics are in everybody's Kafka.
            dir.stop(Server::Kafka)?;
            Ok(stack)
        })
        .await;
        Self {
            dir,
            folder,
            url: stack.database_url.clone(),
            stack,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub(crate) async fn stop(&self) {
        blocking(&self.dir, |dir| dir.stop(Server::Postgres)).await;
    }

    pub(crate) async fn kill(&self) {
        blocking(&self.dir, |dir| dir.kill(Server::Postgres)).await;
    }

    /// Returns as soon as it answers.
    pub(crate) async fn start_again(&self) {
        blocking(&self.dir, |dir| dir.start(Server::Postgres).map(drop)).await;
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if let Err(error) = self.dir.down() {
            eprintln!("a Postgres stays: {error}");
        }
        // What is left is a log.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
