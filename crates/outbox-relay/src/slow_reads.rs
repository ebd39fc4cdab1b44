//! Reads that may be slow.
//!
//! While an old snapshot keeps deleted entries from being vacuumed, reads walk over them and get slow.
//! A read that runs into its limit is repeated for fewer slots, down to one, which then has longer: a
//! slow read means later, never nothing.

use std::time::{Duration, Instant};

use domain::Slot;
use service::LogThrottle;
use storage::outbox::limit_statements;
use storage::{Connection, DedicatedConnection, StorageError};
use tracing::warn;

/// Postgres ends a statement that runs into its limit; this is how long its word for that may take.
const GRACE: Duration = Duration::from_secs(2);

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
    connection: DedicatedConnection,
    pressure: Pressure,
    /// What the session's statements are limited to; `None` of a new connection.
    limited_to: Option<Duration>,
    /// Reads run into their limit.
    too_slow: LogThrottle,
}

impl SlowReads {
    /// `usual` is what a statement may take.
    pub(crate) fn new(connection: DedicatedConnection, usual: Duration) -> Self {
        Self {
            connection,
            pressure: Pressure::new(usual),
            limited_to: None,
            too_slow: LogThrottle::default(),
        }
    }

    /// How many slots one read should be of.
    pub(crate) fn slots_at_once(&self) -> usize {
        self.pressure.slots
    }

    /// Runs one read of so many slots.
    ///
    /// # Errors
    /// When Postgres cannot be asked; the next call connects again.
    pub(crate) async fn read<T>(
        &mut self,
        slots: usize,
        read: impl AsyncFnOnce(&mut Connection) -> Result<T, StorageError>,
    ) -> Result<Read<T>, StorageError> {
        let limit = self.pressure.limit;
        let change = self.limited_to != Some(limit);
        let mut started = Instant::now();
        let limited = async |conn: &mut Connection| {
            if change {
                limit_statements(conn, limit).await?;
            }
            started = Instant::now();
            read(conn).await
        };
        let outcome = self.connection.call(limit + GRACE, limited).await;
        let took = started.elapsed();
        match outcome {
            Ok(value) => {
                self.limited_to = Some(limit);
                self.pressure.ended_in_time(slots, took);
                self.too_slow.end();
                Ok(Read::Done { value, took })
            }
            Err(error) => {
                self.limited_to = None;
                // Whatever language the server says it in.
                if took < limit * 9 / 10 {
                    return Err(error);
                }
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

    /// Runs something else on the connection.
    ///
    /// # Errors
    /// As with [`Self::read`].
    pub(crate) async fn call<T>(
        &mut self,
        limit: Duration,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let outcome = self.connection.call(limit, call).await;
        if outcome.is_err() {
            self.limited_to = None;
        }
        outcome
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
