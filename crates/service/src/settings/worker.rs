//! The settings that every process which works under leases shares.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Reader;

/// Shorter leases would be lost to a slow disk; longer ones make a takeover take too long.
const LEASE_TTL_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(5);

/// How long leases last, and what topics look like that have to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSettings {
    pub lease_ttl: Duration,
    pub topic_partitions: i32,
    pub replication_factor: i16,
}

impl WorkerSettings {
    /// Reads `LEASE_TTL`, `KAFKA_TOPIC_PARTITIONS` and `KAFKA_REPLICATION_FACTOR`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let lease_ttl = reader.duration("LEASE_TTL");
        if !LEASE_TTL_RANGE.contains(&lease_ttl) {
            reader.problem("LEASE_TTL", "must be from 1s to 5m");
        }
        Self {
            lease_ttl,
            topic_partitions: reader.at_least_one("KAFKA_TOPIC_PARTITIONS"),
            replication_factor: reader.at_least_one("KAFKA_REPLICATION_FACTOR"),
        }
    }
}
