//! Reads what is pending, and no more of it than may be in flight.
//!
//! A read that runs into its limit is repeated for fewer slots: see [`crate::slow_reads`].

use std::time::Duration;

use domain::Slot;
use service::LogThrottle;
use storage::StorageError;
use storage::outbox::{Batch, BatchLimits, Orphan};
use tokio::time::Instant;
use tracing::error;

use crate::metrics::Metrics;
use crate::ports::OutboxConnection;
use crate::slow_reads::{Read, SlowReads};

/// A read that takes longer walks over deleted entries, if anything keeps them from being vacuumed.
const SLOW: Duration = Duration::from_millis(50);
/// What is older than this keeps them, in seconds.
const OLD_SNAPSHOT: f64 = 1.0;
/// While reads are slow for that reason, one brings so many times as much: it costs the same.
pub(crate) const LARGER: i64 = 8;

/// Reads pending events.
pub(crate) struct Reader {
    reads: SlowReads,
    limits: BatchLimits,
    /// Of events that name none.
    event_source: String,
    metrics: Metrics,
    /// The latest read that found something was.
    slow: bool,
    /// Pending ids without an event were found.
    orphans: LogThrottle,
}

impl Reader {
    /// `usual` is what a statement may take.
    pub(crate) fn new(
        connection: Box<dyn OutboxConnection>,
        usual: Duration,
        limits: BatchLimits,
        event_source: String,
        metrics: Metrics,
    ) -> Self {
        Self {
            reads: SlowReads::new(connection, usual),
            limits,
            event_source,
            metrics,
            slow: false,
            orphans: LogThrottle::default(),
        }
    }

    /// Bytes that may be read while so many are in flight: beside large events of some slots, few
    /// others fit.
    pub(crate) fn room(&self, bytes_in_flight: i64) -> i64 {
        self.limits.total_bytes - bytes_in_flight
    }

    /// How many slots one read should be of.
    pub(crate) fn slots_at_once(&self) -> usize {
        self.reads.slots_at_once()
    }

    /// The lowest pending events of slots that have nothing in flight, `most` of each and `room` bytes
    /// at most (but at least one event), those of the first slots first. Orphans are removed; nothing
    /// is found only when there is nothing behind them either. `None` when the read ran into its limit.
    ///
    /// # Errors
    /// When Postgres cannot be asked; the next call connects again.
    pub(crate) async fn read(
        &mut self,
        slots: &[Slot],
        most: i64,
        room: i64,
    ) -> Result<Option<Batch>, StorageError> {
        loop {
            let Some(batch) = self.read_once(slots, most, room).await? else {
                return Ok(None);
            };
            let removed = self.remove(&batch.orphans).await?;
            if removed == 0 || !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
    }

    async fn read_once(
        &mut self,
        slots: &[Slot],
        most: i64,
        room: i64,
    ) -> Result<Option<Batch>, StorageError> {
        let horizon_age = self.metrics.snapshot_horizon_age_seconds.get();
        let per_slot = per_slot(self.limits, self.slow, horizon_age);
        let limits = BatchLimits {
            events: per_slot.events.min(most),
            total_bytes: room,
            ..per_slot
        };
        let source = &self.event_source;
        let connection = self.reads.connect().await?;
        let started = Instant::now();
        let read = connection.read_pending(slots, limits, source).await;
        match self.reads.judge(slots.len(), started.elapsed(), read) {
            Ok(Read::Done { value: batch, took }) => {
                self.metrics.read_seconds.observe(took.as_secs_f64());
                if !batch.is_empty() {
                    self.slow = took > SLOW;
                }
                Ok(Some(batch))
            }
            Ok(Read::RanIntoLimit) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns how many were removed.
    async fn remove(&mut self, orphans: &[Orphan]) -> Result<usize, StorageError> {
        let Some(first) = orphans.first() else {
            return Ok(0);
        };
        let removed = self.reads.connection().remove_orphans(orphans).await?;
        self.metrics.orphans.inc_by(removed as u64);
        if removed > 0 && self.orphans.is_due(Instant::now()) {
            let (slot, id) = (first.slot.number(), first.id);
            error!(
                slot,
                id, removed, "removed pending ids whose events do not exist"
            );
        }
        Ok(removed)
    }
}

/// What the next read takes of a slot.
fn per_slot(limits: BatchLimits, slow: bool, horizon_age: f64) -> BatchLimits {
    let larger = if slow && horizon_age > OLD_SNAPSHOT {
        LARGER
    } else {
        1
    };
    BatchLimits {
        events: limits.events.saturating_mul(larger),
        bytes: limits.bytes.saturating_mul(larger),
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_more_of_a_slot_when_an_old_snapshot_makes_it_slow() {
        let limits = BatchLimits {
            events: 512,
            bytes: 1_000,
            total_bytes: 32_000,
            event_bytes: 64_000,
        };
        let larger = BatchLimits {
            events: 4_096,
            bytes: 8_000,
            ..limits
        };
        assert_eq!(per_slot(limits, true, 1.5), larger);
        assert_eq!(per_slot(limits, true, 0.5), limits, "large events, say");
        assert_eq!(per_slot(limits, false, 90.0), limits);
    }
}
