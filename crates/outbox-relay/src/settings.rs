//! The relay's settings, typed.

use std::ops::RangeInclusive;
use std::time::Duration;

use domain::Slot;
use messaging::Brokers;
use service::{OpsSettings, Service, SettingsError, Source, TelemetrySettings, WorkerSettings};
use storage::Database;
use storage::outbox::BatchLimits;

use crate::oversized::LARGEST_RECORD_BYTES;

/// A shorter retention would take from `replay` what it is for; a longer one is a slip.
const RETENTION_RANGE: RangeInclusive<Duration> =
    Duration::from_mins(1)..=Duration::from_hours(24 * 3650);

/// The settings of `outbox-relay run`.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub brokers: Brokers,
    pub worker: WorkerSettings,
    pub limits: BatchLimits,
    /// `ce_source` of events that name no source.
    pub event_source: String,
    /// How long published and discarded events stay.
    pub retention: Duration,
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
        let worker = WorkerSettings::read(&mut reader);
        let bytes: i64 = reader.at_least_one("RELAY__BATCH_BYTES_PER_SLOT");
        let limits = BatchLimits {
            events: reader.at_least_one("RELAY__BATCH_EVENTS_PER_SLOT"),
            bytes,
            total_bytes: bytes.saturating_mul(Slot::COUNT.into()),
            event_bytes: LARGEST_RECORD_BYTES.into(),
        };
        let event_source: String = reader.value("EVENT_SOURCE");
        if !is_uri_reference(&event_source) {
            reader.problem("EVENT_SOURCE", "must be a URI reference such as /orders");
        }
        let retention = reader.duration("OUTBOX_RETENTION");
        if !RETENTION_RANGE.contains(&retention) {
            reader.problem("OUTBOX_RETENTION", "must be from 1m to 3650d");
        }
        let ops = OpsSettings::read(&mut reader, Service::OutboxRelay);
        let telemetry = TelemetrySettings::read(&mut reader);
        let settings = database.zip(brokers).map(|(database, brokers)| Self {
            database,
            brokers,
            worker,
            limits,
            event_source,
            retention,
            ops,
            telemetry,
        });
        reader.finish_with(settings)
    }
}

/// By its characters (RFC 3986, section 2), and short enough for `outbox_event.source`.
fn is_uri_reference(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
    (1..=1024).contains(&text.len()) && text.chars().all(allowed)
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
        assert_eq!(settings.ops.port, 9102);
    }
}
