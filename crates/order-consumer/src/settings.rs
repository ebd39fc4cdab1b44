//! The consumer's settings, typed.

use messaging::Brokers;
use service::{OpsSettings, SettingsError, Source, TelemetrySettings, WorkerSettings};
use storage::Database;

/// `OPS_PORT` when it is not set.
pub const DEFAULT_OPS_PORT: u16 = 9103;

/// Everything `order-consumer run` is told.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub brokers: Brokers,
    /// Whose offsets and inbox these are.
    pub group: String,
    pub worker: WorkerSettings,
    pub ops: OpsSettings,
    pub telemetry: TelemetrySettings,
}

impl Settings {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn read(source: &Source) -> Result<Self, SettingsError> {
        let mut reader = source.reader();
        let database = reader.required("DATABASE_URL");
        let brokers = reader.required("KAFKA_BROKERS");
        let group = reader.or_default("KAFKA_GROUP_ID", "order-group".to_owned());
        let worker = WorkerSettings::read(&mut reader);
        let ops = OpsSettings::read(&mut reader, DEFAULT_OPS_PORT);
        let telemetry = TelemetrySettings::read(&mut reader);
        let settings = database.zip(brokers).map(|(database, brokers)| Self {
            database,
            brokers,
            group,
            worker,
            ops,
            telemetry,
        });
        reader.finish_with(settings)
    }
}
