//! The consumer's settings, typed.

use std::time::Duration;

use messaging::Brokers;
use service::{OpsSettings, Reader, SettingsError, Source, TelemetrySettings, WorkerSettings};
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
    /// How long inbox rows stay at least.
    pub retention: Duration,
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
        let retention = inbox_retention(&mut reader);
        let worker = WorkerSettings::read(&mut reader);
        let ops = OpsSettings::read(&mut reader, DEFAULT_OPS_PORT);
        let telemetry = TelemetrySettings::read(&mut reader);
        let settings = database.zip(brokers).map(|(database, brokers)| Self {
            database,
            brokers,
            group,
            retention,
            worker,
            ops,
            telemetry,
        });
        reader.finish_with(settings)
    }
}

/// A replay may publish an event again for as long as the outbox keeps it.
fn inbox_retention(reader: &mut Reader<'_>) -> Duration {
    const DAY: Duration = Duration::from_hours(24);
    // Twice the longest that the relay takes for the outbox, and more; within Postgres' times.
    const LONGEST_DAYS: u32 = 36_500;
    let inbox = reader.duration("INBOX_RETENTION", DAY * 14);
    let outbox = reader.duration("OUTBOX_RETENTION", DAY * 3);
    if inbox > DAY * LONGEST_DAYS {
        reader.problem(
            "INBOX_RETENTION",
            format!("must be at most {LONGEST_DAYS}d"),
        );
    }
    if inbox <= outbox.saturating_mul(2) {
        let reason = format!(
            "must be more than twice OUTBOX_RETENTION, which is {} s",
            outbox.as_secs()
        );
        reader.problem("INBOX_RETENTION", reason);
    }
    inbox
}

/// What the commands are told: where things are, and whose.
#[derive(Debug, Clone)]
pub(crate) struct CommandSettings {
    pub(crate) database: Database,
    pub(crate) brokers: Option<Brokers>,
    pub(crate) group: String,
}

impl CommandSettings {
    /// Reads and checks them.
    ///
    /// # Errors
    /// Every problem at once.
    pub(crate) fn read(source: &Source) -> Result<Self, SettingsError> {
        let mut reader = source.reader();
        let database = reader.required("DATABASE_URL");
        let brokers = reader.optional("KAFKA_BROKERS");
        let group = reader.or_default("KAFKA_GROUP_ID", "order-group".to_owned());
        let settings = database.map(|database| Self {
            database,
            brokers,
            group,
        });
        reader.finish_with(settings)
    }
}
