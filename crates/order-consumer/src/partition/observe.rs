//! What a partition's consumer tells of its work: metrics, log lines, spans, and where it stands.

use storage::inbox::Stream;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::apply::decode::Decoded;
use crate::apply::transaction::Applied;
use crate::partition::context::PartitionContext;
use crate::partition::prefetch::FetchedBatch;
use crate::partition::progress::PartitionProgress;
use crate::trace::{self, trace_id};

/// Where a partition stands at `next_offset`, with this batch in hand.
pub(crate) fn partition_progress(next_offset: i64, fetched: &FetchedBatch) -> PartitionProgress {
    let records = &fetched.records;
    let waiting = records.iter().find(|d| d.record.offset >= next_offset);
    // What follows is not older than the last one.
    let oldest = waiting.or(records.last());
    PartitionProgress {
        next_offset,
        high_watermark: fetched.high_watermark,
        stable_offset: fetched.stable_offset,
        oldest: oldest.map(|decoded| decoded.record.timestamp),
    }
}

/// Counts, logs and traces what became of a batch. `started` is when its transaction was begun.
pub(crate) fn observe(
    context: &PartitionContext,
    batch: &[Decoded],
    applied: &Applied,
    started: Instant,
) {
    let PartitionContext {
        metrics, stream, ..
    } = context;
    let Stream {
        topic, partition, ..
    } = stream;
    let took = started.elapsed();
    metrics.batch_seconds.observe(took.as_secs_f64());
    trace::processed(&context.tracer, stream, batch, &applied.offsets, took);
    metrics.consumed.inc_by(applied.new as u64);
    metrics.duplicates.inc_by(applied.duplicates.len() as u64);
    metrics.dead.inc_by(applied.dead.len() as u64);
    metrics.blocked.inc_by(applied.blocked as u64);
    let records = applied.new
        + applied.duplicates.len()
        + applied.dead.len()
        + applied.blocked
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
        let trace_id = trace_id(batch, *offset);
        warn!(
            %event_id, topic, partition, offset, trace_id,
            "duplicate event, its effect has already happened"
        );
    }
    for (offset, reason) in &applied.dead {
        let trace_id = trace_id(batch, *offset);
        error!(topic, partition, offset, reason, trace_id, "dead letter");
    }
}
