//! Reads that may be slow.
//!
//! While an old snapshot keeps deleted entries from being vacuumed, reads walk over them and get slow.
//! A read that runs into its limit is repeated for fewer slots, down to one, which then has longer: a
//! slow read means later, never nothing.

use std::time::Duration;

use domain::Slot;
use service::LogThrottle;
use storage::StorageError;
use tokio::time::Instant;
use tracing::warn;

use crate::ports::OutboxConnection;

/// How a read ended.
#[derive(Debug)]
pub(crate) enum Read<T> {
    Done {
        value: T,
        took: Duration,
    },
    /// The next one is to be of fewer slots; that of a single slot has longer then.
    RanIntoLimit,
}

/// A connection for reads of several slots at once.
pub(crate) struct SlowReads {
    connection: Box<dyn OutboxConnection>,
    pressure: Pressure,
    /// Reads run into their limit.
    too_slow: LogThrottle,
}

impl SlowReads {
    /// `usual` is what a statement may take.
    pub(crate) fn new(connection: Box<dyn OutboxConnection>, usual: Duration) -> Self {
        Self {
            connection,
            pressure: Pressure::new(usual),
            too_slow: LogThrottle::default(),
        }
    }

    /// How many slots one read should be of.
    pub(crate) fn slots_at_once(&self) -> usize {
        self.pressure.slots
    }

    /// Connects for a read, which may take as long as its number of slots allows. Pass what it
    /// returns to [`Self::judge`].
    ///
    /// # Errors
    /// When Postgres cannot be asked; the next call connects again.
    pub(crate) async fn connect(&mut self) -> Result<&mut dyn OutboxConnection, StorageError> {
        self.connection.limit_reads(self.pressure.limit);
        // What it takes to connect says nothing of the read.
        self.connection.connect().await?;
        Ok(self.connection.as_mut())
    }

    /// Judges a read of so many slots by how long it took.
    ///
    /// # Errors
    /// The read's own, unless it ran into its limit.
    pub(crate) fn judge<T>(
        &mut self,
        slots: usize,
        took: Duration,
        outcome: Result<T, StorageError>,
    ) -> Result<Read<T>, StorageError> {
        match outcome {
            Ok(value) => {
                self.pressure.ended_in_time(slots, took);
                self.too_slow.end();
                Ok(Read::Done { value, took })
            }
            // Whatever language the server says it in.
            Err(error) if took < self.pressure.limit * 9 / 10 => Err(error),
            Err(error) => {
                self.pressure.ran_into_limit(slots);
                if self.too_slow.is_due(Instant::now()) {
                    let next = self.pressure.slots;
                    warn!(
                        slots, next, ?took, %error,
                        "a read ran into its time limit; reading fewer slots at once, or for longer"
                    );
                }
                Ok(Read::RanIntoLimit)
            }
        }
    }

    /// The connection, for another call.
    pub(crate) fn connection(&mut self) -> &mut dyn OutboxConnection {
        self.connection.as_mut()
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
