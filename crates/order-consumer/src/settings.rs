//! The consumer's settings, typed.

use std::time::Duration;

use messaging::Brokers;
use service::{
    OpsSettings, Reader, Service, SettingsError, Source, TelemetrySettings, WorkerSettings,
};
use storage::Database;

/// The settings of `order-consumer run`.
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
        let group = reader.value("KAFKA_GROUP_ID");
        let retention = inbox_retention(&mut reader);
        let worker = WorkerSettings::read(&mut reader);
        let ops = OpsSettings::read(&mut reader, Service::OrderConsumer);
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
    let inbox = reader.duration("INBOX_RETENTION");
    let outbox = reader.duration("OUTBOX_RETENTION");
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

/// The settings of the commands.
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
        let group = reader.value("KAFKA_GROUP_ID");
        let settings = database.map(|database| Self {
            database,
            brokers,
            group,
        });
        reader.finish_with(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_default_is_a_value_of_its_setting() {
        let needed = [
            ("DATABASE_URL", "postgres://orders@localhost/orders"),
            ("KAFKA_BROKERS", "localhost:9092"),
        ];
        let settings = Settings::read(&Source::from_pairs(needed).unwrap()).unwrap();
        assert_eq!(settings.ops.port, 9103);
    }
}
