//! Reads what is pending, and no more of it than may be in flight.
//!
//! While an old snapshot keeps deleted entries from being vacuumed, reads walk over them and get slow.
//! A read that runs into its limit is repeated for fewer slots, down to one, which then has longer: a
//! slow read means later, never nothing.

use std::time::{Duration, Instant};

use domain::Slot;
use service::Reminder;
use storage::outbox::{Batch, BatchLimits, Orphan, limit_statements, read_pending, remove_orphans};
use storage::{DedicatedConnection, StorageError};
use tracing::{error, warn};

use crate::metrics::Metrics;

const DEADLINE: Duration = Duration::from_secs(10);
/// Postgres ends a statement that runs into its limit; this is how long its word for that may take.
const GRACE: Duration = Duration::from_secs(2);
/// A read that takes longer walks over deleted entries, if anything keeps them from being vacuumed.
const SLOW: Duration = Duration::from_millis(50);
/// What is older than this keeps them, in seconds.
const OLD_SNAPSHOT: f64 = 1.0;
/// While reads are slow for that reason, one brings so many times as much: it costs the same.
pub(crate) const LARGER: i64 = 8;

/// Reads pending events.
pub(crate) struct Reader {
    connection: DedicatedConnection,
    limits: BatchLimits,
    metrics: Metrics,
    pressure: Pressure,
    /// What the session's statements are limited to; `None` of a new connection.
    limited_to: Option<Duration>,
    /// The latest read that found something was.
    slow: bool,
    /// Reads run into their limit.
    too_slow: Reminder,
    /// Pending ids without an event were found.
    orphans: Reminder,
}

impl Reader {
    /// `usual` is what a statement may take.
    pub(crate) fn new(
        connection: DedicatedConnection,
        usual: Duration,
        limits: BatchLimits,
        metrics: Metrics,
    ) -> Self {
        Self {
            connection,
            limits,
            metrics,
            pressure: Pressure::new(usual),
            limited_to: None,
            slow: false,
            too_slow: Reminder::default(),
            orphans: Reminder::default(),
        }
    }

    /// Bytes that may be read while so many are in flight: beside large events of some slots, few
    /// others fit.
    pub(crate) fn room(&self, bytes_in_flight: i64) -> i64 {
        self.limits.total_bytes - bytes_in_flight
    }

    /// How many slots one read should be of.
    pub(crate) fn slots_at_once(&self) -> usize {
        self.pressure.slots
    }

    /// The lowest pending events of slots that have nothing in flight, `most` of each and `room` bytes
    /// at most (but at least one event), those of the first slots first. Orphans are removed; nothing
    /// is found only when there is nothing behind them either. `None` when the read ran into its limit.
    ///
    /// # Errors
    /// When Postgres cannot be asked; the next call connects anew.
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
        let horizon_age = self.metrics.snapshot_horizon_age.get();
        let per_slot = per_slot(self.limits, self.slow, horizon_age);
        let limits = BatchLimits {
            events: per_slot.events.min(most),
            total_bytes: room,
            ..per_slot
        };
        let limit = self.pressure.limit;
        let change = self.limited_to != Some(limit);
        let mut started = Instant::now();
        let read = async |conn: &mut _| {
            if change {
                limit_statements(conn, limit).await?;
            }
            started = Instant::now();
            read_pending(conn, slots, limits).await
        };
        let read = self.connection.call(limit + GRACE, read).await;
        let took = started.elapsed();
        match read {
            Ok(batch) => {
                self.limited_to = Some(limit);
                self.metrics.read_seconds.observe(took.as_secs_f64());
                self.pressure.ended_in_time(slots.len(), took);
                self.too_slow.end();
                if !batch.is_empty() {
                    self.slow = took > SLOW;
                }
                Ok(Some(batch))
            }
            Err(error) => {
                self.limited_to = None;
                // Whatever language the server says it in.
                if took < limit * 9 / 10 {
                    return Err(error);
                }
                self.pressure.ran_into_limit(slots.len());
                if self.too_slow.is_due(Instant::now()) {
                    let (slots, next) = (slots.len(), self.pressure.slots);
                    warn!(
                        slots, next, ?took, %error,
                        "a read ran into its time limit; reading fewer slots at once, or for longer"
                    );
                }
                Ok(None)
            }
        }
    }

    /// Returns how many were removed.
    async fn remove(&mut self, orphans: &[Orphan]) -> Result<usize, StorageError> {
        let Some(first) = orphans.first() else {
            return Ok(0);
        };
        let remove = async |conn: &mut _| remove_orphans(conn, orphans).await;
        let removed = self.connection.call(DEADLINE, remove).await;
        if removed.is_err() {
            self.limited_to = None;
        }
        let removed = removed?;
        self.metrics.orphans.inc_by(removed as u64);
        if removed > 0 && self.orphans.is_due(Instant::now()) {
            let (slot, id) = (first.slot.number(), first.id);
            error!(
                slot,
                id, removed, "outbox_pending named events that do not exist; removed them"
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

/// How many slots one read is of and how long it may take. A read holds no lock and counts only under
/// the epoch that it was begun with, so that of a single slot may take longer than a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pressure {
    slots: usize,
    limit: Duration,
    usual: Duration,
}

impl Pressure {
    const LONGEST: Duration = Duration::from_mins(1);
    const ALL: usize = Slot::COUNT as usize;

    fn new(usual: Duration) -> Self {
        Self {
            slots: Self::ALL,
            limit: usual,
            usual,
        }
    }

    /// A read of so many slots did not end in time.
    fn ran_into_limit(&mut self, slots: usize) {
        if slots > 1 {
            self.slots = self.slots.min(slots).div_ceil(2);
        } else {
            self.limit = (self.limit * 2).min(Self::LONGEST.max(self.usual));
        }
    }

    /// More only where it is likely to end in time as well.
    fn ended_in_time(&mut self, slots: usize, took: Duration) {
        if slots < self.slots || took * 2 > self.limit {
            return;
        }
        if self.limit > self.usual {
            self.limit = (self.limit / 2).max(self.usual);
        } else {
            self.slots = (self.slots + self.slots.div_ceil(4)).min(Self::ALL);
        }
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

    #[test]
    fn a_read_that_runs_into_its_limit_is_of_fewer_slots_and_then_has_longer() {
        let usual = Duration::from_secs(2);
        let mut pressure = Pressure::new(usual);
        let mut tried = Vec::new();
        for _ in 0..12 {
            tried.push((pressure.slots, pressure.limit.as_secs()));
            pressure.ran_into_limit(pressure.slots);
        }
        let expected = [
            (32, 2),
            (16, 2),
            (8, 2),
            (4, 2),
            (2, 2),
            (1, 2),
            (1, 4),
            (1, 8),
            (1, 16),
            (1, 32),
            (1, 60),
            (1, 60),
        ];
        assert_eq!(tried, expected);

        // Back again as reads get faster, the limit first.
        pressure.ended_in_time(1, Duration::from_secs(40));
        assert_eq!((pressure.slots, pressure.limit.as_secs()), (1, 60));
        for _ in 0..6 {
            pressure.ended_in_time(1, Duration::from_millis(100));
        }
        assert_eq!((pressure.slots, pressure.limit), (2, usual));
        pressure.ended_in_time(1, Duration::from_millis(100));
        assert_eq!(pressure.slots, 2, "a read of fewer slots tells little");
        for _ in 0..20 {
            pressure.ended_in_time(pressure.slots, Duration::from_millis(100));
        }
        assert_eq!(pressure, Pressure::new(usual));
    }
}
