//! The relay's settings, typed.

use std::time::Duration;

use messaging::Brokers;
use service::{OpsSettings, Reader, SettingsError, Source, TelemetrySettings};
use storage::Database;
use storage::outbox::BatchLimits;

/// Everything `outbox-relay run` is told.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub brokers: Brokers,
    pub lease_ttl: Duration,
    pub topics: TopicSettings,
    pub limits: BatchLimits,
    pub ops: OpsSettings,
    pub telemetry: TelemetrySettings,
}

/// For topics that do not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    pub partitions: i32,
    pub replication_factor: i16,
}

/// Shorter leases would be lost to a slow disk; longer ones make a takeover take too long.
const LEASE_TTL_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_mins(5);

impl Settings {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn read(source: &Source) -> Result<Self, SettingsError> {
        let mut reader = source.reader();
        let database = reader.required("DATABASE_URL");
        let brokers = reader.required("KAFKA_BROKERS");
        let lease_ttl = lease_ttl(&mut reader);
        let topics = TopicSettings::read(&mut reader);
        let limits = BatchLimits {
            events: at_least_one(&mut reader, "RELAY__BATCH_EVENTS_PER_SLOT", 256),
            bytes: at_least_one(&mut reader, "RELAY__BATCH_BYTES_PER_SLOT", 262_144),
        };
        let ops = OpsSettings::read(&mut reader, 9102);
        let telemetry = TelemetrySettings::read(&mut reader);
        let settings = database.zip(brokers).map(|(database, brokers)| Self {
            database,
            brokers,
            lease_ttl,
            topics,
            limits,
            ops,
            telemetry,
        });
        reader.finish_with(settings)
    }
}

impl TopicSettings {
    fn read(reader: &mut Reader<'_>) -> Self {
        let partitions = reader.or_default("KAFKA_TOPIC_PARTITIONS", 6);
        if partitions < 1 {
            reader.problem("KAFKA_TOPIC_PARTITIONS", "must be at least 1");
        }
        let replication_factor = reader.or_default("KAFKA_REPLICATION_FACTOR", 1);
        if replication_factor < 1 {
            reader.problem("KAFKA_REPLICATION_FACTOR", "must be at least 1");
        }
        Self {
            partitions,
            replication_factor,
        }
    }
}

fn lease_ttl(reader: &mut Reader<'_>) -> Duration {
    let ttl = reader.duration("LEASE_TTL", Duration::from_secs(10));
    if !LEASE_TTL_RANGE.contains(&ttl) {
        reader.problem("LEASE_TTL", "must be from 1s to 5m");
    }
    ttl
}

fn at_least_one(reader: &mut Reader<'_>, name: &str, default: i64) -> i64 {
    let value = reader.or_default(name, default);
    if value < 1 {
        reader.problem(name, "must be at least 1");
    }
    value
}
