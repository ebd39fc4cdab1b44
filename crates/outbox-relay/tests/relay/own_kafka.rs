//! A Kafka of a test's own, to be stopped, killed and frozen without disturbing the others.

use std::sync::Arc;

use local_stack::testing::KafkaServer;

/// Gone with this value.
pub(crate) struct OwnKafka {
    server: Arc<KafkaServer>,
    pub(crate) brokers: String,
}

impl OwnKafka {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings beside those that any Kafka here has.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter();
        let settings: Vec<_> = settings
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let server = blocking(move || KafkaServer::start(&settings)).await;
        Self {
            brokers: server.brokers(),
            server: Arc::new(server),
        }
    }

    pub(crate) async fn stop(&self) {
        self.having(KafkaServer::stop).await;
    }

    pub(crate) async fn kill(&self) {
        self.having(KafkaServer::kill).await;
    }

    /// Returns as soon as it answers.
    pub(crate) async fn start_again(&self) {
        self.having(KafkaServer::start_again).await;
    }

    pub(crate) async fn freeze(&self) {
        self.having(KafkaServer::pause).await;
    }

    pub(crate) async fn thaw(&self) {
        self.having(KafkaServer::resume).await;
    }

    async fn having(&self, call: fn(&KafkaServer)) {
        let server = Arc::clone(&self.server);
        blocking(move || call(&server)).await;
    }
}

/// Calls from a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.unwrap()
}
