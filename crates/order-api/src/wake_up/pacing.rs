//! When a wake-up is sent: at once, unless one was sent just before. Computes times, never sleeps.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two wake-ups at least. One is enough for all that was committed before it, and at
/// thousands of orders a second a notification each would cost Postgres more than it gains.
pub const SPACING: Duration = Duration::from_millis(5);

/// Remembers the last wake-up.
#[derive(Debug, Clone, Default)]
pub struct Pacing {
    last: Option<Instant>,
}

impl Pacing {
    /// When to send a wake-up for a commit reported `now`; never before `now`.
    pub fn due(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + SPACING))
    }

    /// Notes that one was sent.
    pub fn sent(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_goes_at_once_and_the_next_after_the_spacing() {
        let start = Instant::now();
        let mut pacing = Pacing::default();
        assert_eq!(pacing.due(start), start);
        pacing.sent(start);
        assert_eq!(pacing.due(start), start + SPACING);
        let soon = start + SPACING / 2;
        assert_eq!(pacing.due(soon), start + SPACING);
        let late = start + SPACING * 3;
        assert_eq!(pacing.due(late), late);
    }
}
