//! A Kafka of a test's own, to be stopped, killed and frozen without disturbing the others.

use std::path::PathBuf;

use local_stack::testing::unique_topic;
use local_stack::{Server, StackDir, StackError};

/// Gone with this value.
pub(crate) struct OwnKafka {
    dir: StackDir,
    folder: PathBuf,
    pub(crate) brokers: String,
}

impl OwnKafka {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings beside those that any Kafka here has.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(unique_topic("own-kafka"));
        let dir = StackDir::new(&folder).with_kafka_settings(settings);
        let brokers = blocking(&dir, |dir| {
            let stack = dir.up()?;
            // Databases are in everybody's Postgres.
            dir.stop(Server::Postgres)?;
            Ok(stack.kafka_brokers)
        });
        Self {
            brokers: brokers.await,
            dir,
            folder,
        }
    }

    pub(crate) async fn stop(&self) {
        blocking(&self.dir, |dir| dir.stop(Server::Kafka)).await;
    }

    pub(crate) async fn kill(&self) {
        blocking(&self.dir, |dir| dir.kill(Server::Kafka)).await;
    }

    /// Returns as soon as it answers.
    pub(crate) async fn start_again(&self) {
        blocking(&self.dir, |dir| dir.start(Server::Kafka).map(drop)).await;
    }

    pub(crate) async fn freeze(&self) {
        blocking(&self.dir, |dir| dir.pause(Server::Kafka)).await;
    }

    pub(crate) async fn thaw(&self) {
        blocking(&self.dir, |dir| dir.resume(Server::Kafka)).await;
    }
}

/// Calls from a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    dir: &StackDir,
    call: impl FnOnce(&StackDir) -> Result<T, StackError> + Send + 'static,
) -> T {
    let dir = dir.clone();
    let called = tokio::task::spawn_blocking(move || call(&dir));
    called.await.unwrap().unwrap()
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        if let Err(error) = self.dir.down() {
            eprintln!("a Kafka stays: {error}");
        }
        // What is left is a log.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
