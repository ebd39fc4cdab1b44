//! The ports, answered by Postgres and by Kafka.

mod kafka;
mod postgres;

use std::sync::Arc;

use messaging::Cluster;

use crate::adapters::postgres::PostgresOutbox;
use crate::ports::Ports;
use crate::settings::Settings;

/// The Postgres and the Kafka that the settings name. Connects to nothing yet.
pub(crate) fn ports(settings: &Settings) -> Ports {
    Ports {
        outbox: Arc::new(PostgresOutbox {
            database: settings.database.clone(),
            lease_ttl: settings.worker.lease_ttl,
        }),
        producer: Arc::new(Cluster::new(settings.brokers.clone())),
    }
}
