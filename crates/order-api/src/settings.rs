//! The settings of each command, typed. Their names and meanings are declared in `service`.

use std::time::Duration;

use service::{OpsSettings, SettingsError, Source, TelemetrySettings};
use storage::Database;

use crate::store::{CANCELLATION_WINDOW, KEY_LIFETIME};

/// `OPS_PORT` when it is not set.
pub const DEFAULT_OPS_PORT: u16 = 9101;

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
        let pool_size = reader.or_default("API__POOL_SIZE", 16);
        if !POOL_SIZES.contains(&pool_size) {
            let (least, most) = POOL_SIZES.into_inner();
            reader.problem("API__POOL_SIZE", format!("must be {least} to {most}"));
        }
        let group_commit = reader.switch("API__GROUP_COMMIT", true);
        let key_lifetime = reader.duration("API__IDEMPOTENCY_TTL", KEY_LIFETIME);
        if key_lifetime < SHORTEST_KEY_LIFETIME {
            reader.problem("API__IDEMPOTENCY_TTL", "must be at least 1s");
        }
        let cancellation_window = reader.duration("API__CANCELLATION_WINDOW", CANCELLATION_WINDOW);
        let port = reader.or_default("PORT", 3000);
        let ops = OpsSettings::read(&mut reader, DEFAULT_OPS_PORT);
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
