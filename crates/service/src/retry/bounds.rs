//! How long to wait between attempts, for every kind of work that is tried again.

use std::time::Duration;

/// The ceilings of a [`Backoff`](crate::Backoff).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBounds {
    /// Of the first delay.
    pub first: Duration,
    /// Of every delay.
    pub longest: Duration,
}

impl RetryBounds {
    const fn millis(first: u64, longest: u64) -> Self {
        Self {
            first: Duration::from_millis(first),
            longest: Duration::from_millis(longest),
        }
    }
}

/// What a process needs before it can work.
pub const START: RetryBounds = RetryBounds::millis(200, 2_000);
/// Work that everything else waits for: once the server is back, the next attempt must not be far.
pub const STANDSTILL: RetryBounds = RetryBounds::millis(100, 2_000);
/// A request to a server that a part of the work waits for.
pub const REQUEST: RetryBounds = RetryBounds::millis(100, 3_000);
/// Work that holds up nothing but itself.
pub const TASK: RetryBounds = RetryBounds::millis(100, 5_000);
/// A connection that makes things faster, and without which they go on.
pub const HINTS: RetryBounds = RetryBounds::millis(200, 5_000);
/// What is looked up or sent beside the work.
pub const BESIDE: RetryBounds = RetryBounds::millis(200, 3_000);
/// Deleting what is old.
pub const HOUSEKEEPING: RetryBounds = RetryBounds::millis(1_000, 60_000);
