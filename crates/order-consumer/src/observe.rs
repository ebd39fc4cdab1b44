//! What a partition's consumer tells of its work: metrics, log lines, and where it stands.

use std::time::Instant;

use storage::inbox::Stream;
use time::OffsetDateTime;
use tracing::{error, warn};

use crate::apply::Applied;
use crate::metrics::Metrics;
use crate::prefetch::FetchedBatch;
use crate::standing::Standing;

/// Where a partition stands at `next_offset`, with this batch in hand.
pub(crate) fn standing(next_offset: i64, fetched: &FetchedBatch) -> Standing {
    let mut records = fetched.records.iter();
    let oldest = if next_offset == fetched.from {
        records.next()
    } else {
        records.next_back()
    };
    Standing {
        next_offset,
        high_watermark: fetched.high_watermark,
        stable_offset: fetched.stable_offset,
        oldest: oldest.map(|decoded| decoded.record.timestamp),
    }
}

/// Counts and logs what became of a batch. `started` is when its transaction was begun.
pub(crate) fn observe(metrics: &Metrics, stream: &Stream, applied: &Applied, started: Instant) {
    let Stream {
        topic, partition, ..
    } = stream;
    metrics
        .batch_seconds
        .observe(started.elapsed().as_secs_f64());
    metrics.consumed.inc_by(applied.new as u64);
    metrics.duplicates.inc_by(applied.duplicates.len() as u64);
    metrics.dead.inc_by(applied.dead.len() as u64);
    metrics.parked.inc_by(applied.parked as u64);
    let records = applied.new
        + applied.duplicates.len()
        + applied.dead.len()
        + applied.parked
        + applied.settled;
    metrics
        .batch_records
        .observe(u32::try_from(records).map_or(f64::MAX, f64::from));
    let now = OffsetDateTime::now_utc();
    for created in &applied.created {
        let seconds = (now - *created).as_seconds_f64().max(0.0);
        metrics.event_seconds.observe(seconds);
    }
    for (event_id, offset) in &applied.duplicates {
        warn!(%event_id, topic, partition, offset, "duplicate event, its effect has happened already");
    }
    for (offset, reason) in &applied.dead {
        error!(topic, partition, offset, reason, "dead letter");
    }
}
