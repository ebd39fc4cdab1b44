//! When trouble that lasts is to be logged: at once, and then once a minute.

use std::time::Duration;

use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_mins(1);

/// Of one trouble.
#[derive(Debug, Default, Clone, Copy)]
pub struct LogThrottle {
    last: Option<Instant>,
}

impl LogThrottle {
    /// Whether the trouble, which is there now, is to be logged; then the minute starts over.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
    }

    /// Whether there is any trouble.
    pub fn is_there(&self) -> bool {
        self.last.is_some()
    }

    /// The trouble is over. True when there was any.
    pub fn end(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_once_then_once_a_minute_and_anew_after_the_end() {
        let start = Instant::now();
        let mut log_throttle = LogThrottle::default();
        assert!(!log_throttle.is_there() && !log_throttle.end());
        let due: Vec<u64> = (0..130)
            .filter(|second| log_throttle.is_due(start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 60, 120]);
        assert!(log_throttle.is_there() && log_throttle.end());
        assert!(!log_throttle.is_there() && !log_throttle.end());
        assert!(log_throttle.is_due(start + Duration::from_secs(131)));
    }
}
