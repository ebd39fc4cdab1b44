//! When to look again although nobody woke us: a pure function of what the last looks found.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
/// An empty read that is slow (dead entries pile up behind an old snapshot) must not fill the
/// database's time: the pause is at least this many times as long.
const READ_SHARE: u32 = 10;

/// The pause before the next look. Doubles while nothing is found.
#[derive(Debug)]
pub(crate) struct PollInterval {
    pause: Duration,
}

impl PollInterval {
    pub(crate) fn new() -> Self {
        Self { pause: SHORTEST }
    }

    /// A look found something.
    pub(crate) fn found(&mut self) {
        self.pause = SHORTEST;
    }

    /// A look that took `took` found nothing; returns how long to wait.
    pub(crate) fn found_nothing(&mut self, took: Duration) -> Duration {
        let pause = self.pause.max(took * READ_SHARE);
        self.pause = (self.pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_a_second_and_starts_over() {
        let mut interval = PollInterval::new();
        let pauses: Vec<u128> = (0..8)
            .map(|_| interval.found_nothing(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        interval.found();
        assert_eq!(interval.found_nothing(Duration::ZERO), SHORTEST);
    }

    #[test]
    fn a_slow_empty_read_gets_a_tenth_of_the_time_at_most() {
        let mut interval = PollInterval::new();
        let took = Duration::from_millis(500);
        assert_eq!(interval.found_nothing(took), Duration::from_secs(5));
    }
}
