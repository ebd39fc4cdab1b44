//! How long to wait before trying again: exponential back-off with full jitter. It only computes
//! delays; it never sleeps and never looks at a clock.
//!
//! Full jitter (a delay drawn evenly from zero to the current ceiling) spreads processes that lost
//! the same server best: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::retry::RetryBounds;

/// A sequence of delays whose ceiling doubles within its bounds.
#[derive(Debug, Clone)]
pub struct Backoff {
    bounds: RetryBounds,
    ceiling: Duration,
}

impl Backoff {
    /// The first delay is at most `bounds.first`, no delay is more than `bounds.longest`.
    pub fn new(bounds: RetryBounds) -> Backoff {
        Backoff {
            bounds,
            ceiling: bounds.first,
        }
    }

    /// The delay before the next attempt; the one after it may be twice as long.
    #[must_use = "the ceiling has doubled; wait this long"]
    pub fn next_delay(&mut self) -> Duration {
        self.next_delay_with(&mut rand::rng())
    }

    /// As [`Backoff::next_delay`], with the randomness given.
    fn next_delay_with(&mut self, random: &mut impl Rng) -> Duration {
        let delay = random.random_range(Duration::ZERO..=self.ceiling);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.bounds.longest);
        delay
    }

    /// Back to the first ceiling: an attempt has succeeded.
    pub fn reset(&mut self) {
        self.ceiling = self.bounds.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const BOUNDS: RetryBounds = RetryBounds {
        first: MIN,
        longest: Duration::from_secs(1),
    };

    /// Always the largest value of the range asked for.
    fn highest() -> impl Rng {
        struct Ones;
        impl rand::TryRng for Ones {
            type Error = std::convert::Infallible;
            fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
                Ok(u32::MAX)
            }
            fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
                Ok(u64::MAX)
            }
            fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
                bytes.fill(u8::MAX);
                Ok(())
            }
        }
        Ones
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum_and_reset_starts_over() {
        let mut random = highest();
        let mut backoff = Backoff::new(BOUNDS);
        let delays: Vec<_> = (0..6)
            .map(|_| backoff.next_delay_with(&mut random).as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next_delay_with(&mut random), MIN);
    }

    #[test]
    fn delays_are_spread_below_the_ceiling() {
        let delays: Vec<_> = (0..200)
            .map(|_| Backoff::new(BOUNDS).next_delay())
            .collect();
        assert!(delays.iter().all(|delay| *delay <= MIN));
        assert!(delays.iter().any(|delay| *delay < MIN / 2));
        assert!(delays.iter().any(|delay| *delay > MIN / 2));
    }

    #[test]
    fn a_long_series_does_not_overflow() {
        let mut backoff = Backoff::new(RetryBounds {
            first: MIN,
            longest: Duration::MAX,
        });
        for _ in 0..200 {
            let _ = backoff.next_delay();
        }
    }
}
