//! The settings of each command, typed. Their names and meanings are declared in `service`.

use std::time::Duration;

use service::{OpsSettings, Service, SettingsError, Source, TelemetrySettings};
use storage::Database;

/// Connections a pool may be set to: above this, Postgres is the one to be asked first.
const POOL_SIZES: std::ops::RangeInclusive<usize> = 1..=1000;

/// A client has to be able to use a key again.
const SHORTEST_KEY_LIFETIME: Duration = Duration::from_secs(1);

/// What serving needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `DATABASE_URL`.
    pub database: Database,
    /// `API__POOL_SIZE`: connections for answering requests, made when needed.
    pub pool_size: usize,
    /// `API__GROUP_COMMIT`: whether orders share commits.
    pub group_commit: bool,
    /// `API__IDEMPOTENCY_TTL`: how long the answer to a request with a key is kept.
    pub key_lifetime: Duration,
    /// `API__CANCELLATION_WINDOW`: for how long an order can be cancelled.
    pub cancellation_window: Duration,
    /// `PORT`; 0 lets the system choose.
    pub port: u16,
    /// `OPS_PORT`.
    pub ops: OpsSettings,
    /// `RUST_LOG`, `LOG_FORMAT`, and OpenTelemetry's.
    pub log: TelemetrySettings,
}

/// What migrating needs.
#[derive(Debug, Clone)]
pub struct MigrateSettings {
    /// `DATABASE_URL`.
    pub database: Database,
    /// `RUST_LOG`, `LOG_FORMAT`, and OpenTelemetry's.
    pub log: TelemetrySettings,
}

impl Settings {
    /// Reads what serving needs.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn read(source: &Source) -> Result<Self, SettingsError> {
        let mut reader = source.reader();
        let database = reader.required("DATABASE_URL");
        let pool_size = reader.value("API__POOL_SIZE");
        if !POOL_SIZES.contains(&pool_size) {
            let (least, most) = POOL_SIZES.into_inner();
            reader.problem("API__POOL_SIZE", format!("must be {least} to {most}"));
        }
        let group_commit = reader.switch("API__GROUP_COMMIT");
        let key_lifetime = reader.duration("API__IDEMPOTENCY_TTL");
        if key_lifetime < SHORTEST_KEY_LIFETIME {
            reader.problem("API__IDEMPOTENCY_TTL", "must be at least 1s");
        }
        let cancellation_window = reader.duration("API__CANCELLATION_WINDOW");
        let port = reader.value("PORT");
        let ops = OpsSettings::read(&mut reader, Service::OrderApi);
        let log = TelemetrySettings::read(&mut reader);
        reader.finish_with(database.map(|database| Self {
            database,
            pool_size,
            group_commit,
            key_lifetime,
            cancellation_window,
            port,
            ops,
            log,
        }))
    }
}

impl MigrateSettings {
    /// Reads what migrating needs.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn read(source: &Source) -> Result<Self, SettingsError> {
        let mut reader = source.reader();
        let database = reader.required("DATABASE_URL");
        let log = TelemetrySettings::read(&mut reader);
        reader.finish_with(database.map(|database| Self { database, log }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_default_is_a_value_of_its_setting() {
        let needed = [("DATABASE_URL", "postgres://orders@localhost/orders")];
        let settings = Settings::read(&Source::from_pairs(needed).unwrap()).unwrap();
        assert_eq!(settings.ops.port, 9101);
    }
}
