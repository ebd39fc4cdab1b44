//! Work that is tried again until it succeeds: how long it waits between attempts ([`bounds`]), when
//! a failure is logged, and what `/readyz` says meanwhile.

pub mod bounds;

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

pub use bounds::RetryBounds;

use crate::{Backoff, Issue, LogThrottle, ReportReadiness};

/// Reports the failures of one piece of work to the log and `/readyz`. For work that has a rhythm of its
/// own; [`RetryLoop`] adds the delays.
#[derive(Debug, Default)]
pub struct FailureReporter {
    log_throttle: LogThrottle,
    issue: Option<Issue>,
}

impl FailureReporter {
    /// Reports to `issue` too.
    pub fn with(issue: Issue) -> Self {
        Self {
            log_throttle: LogThrottle::default(),
            issue: Some(issue),
        }
    }

    /// An attempt failed. `log` is called for the first failure and then once a minute.
    pub fn failed<E: Display>(&mut self, error: &E, log: impl FnOnce(&E)) {
        if self.log_throttle.is_due(Instant::now()) {
            log(error);
        }
        if let Some(issue) = &self.issue {
            issue.not_ready(&error.to_string());
        }
    }

    /// An attempt succeeded. True when the one before it had failed.
    pub fn succeeded(&mut self) -> bool {
        let had_failed = self.log_throttle.end();
        if had_failed && let Some(issue) = &self.issue {
            issue.ready();
        }
        had_failed
    }

    /// Whether the latest attempt failed.
    pub fn is_failing(&self) -> bool {
        self.log_throttle.is_there()
    }
}

/// What a loop that repeats one piece of work knows of its failures: how long to wait after each, and
/// where they are reported.
#[derive(Debug)]
pub struct RetryLoop {
    backoff: Backoff,
    reporter: FailureReporter,
}

impl RetryLoop {
    /// Waits within `bounds`; failures are logged.
    pub fn new(bounds: RetryBounds) -> Self {
        Self {
            backoff: Backoff::new(bounds),
            reporter: FailureReporter::default(),
        }
    }

    /// The same; failures are reported to `issue` too.
    pub fn reporting(bounds: RetryBounds, issue: Issue) -> Self {
        Self {
            backoff: Backoff::new(bounds),
            reporter: FailureReporter::with(issue),
        }
    }

    /// [`Self::failed`], and the wait until the next attempt.
    pub fn wait_after<E: Display>(&mut self, error: &E, log: impl FnOnce(&E)) -> Sleep {
        sleep(self.failed(error, log))
    }

    /// An attempt failed: tells the log, at most once a minute, and `/readyz`. Returns the delay before
    /// the next attempt.
    #[must_use = "the ceiling has doubled; wait this long"]
    pub fn failed<E: Display>(&mut self, error: &E, log: impl FnOnce(&E)) -> Duration {
        self.reporter.failed(error, log);
        self.next_delay()
    }

    /// The delay before an attempt after one whose end is nothing to report.
    #[must_use = "the ceiling has doubled; wait this long"]
    pub fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// An attempt succeeded: the next failure is the first one. True when the one before it had failed.
    pub fn succeeded(&mut self) -> bool {
        self.backoff.reset();
        self.reporter.succeeded()
    }

    /// Whether the latest attempt failed.
    pub fn is_failing(&self) -> bool {
        self.reporter.is_failing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Readiness, ReadinessIssues};

    #[tokio::test(start_paused = true)]
    async fn failures_are_reported_and_logged_once_a_minute_until_the_work_succeeds() {
        let readiness = Readiness::new();
        let issues = ReadinessIssues::new(readiness.check("postgres"));
        let mut retry = RetryLoop::reporting(bounds::TASK, issues.issue("settling"));
        let (begun, mut failures, mut logged) = (Instant::now(), 0, 0);
        while begun.elapsed() < Duration::from_secs(90) {
            failures += 1;
            retry.wait_after(&"refused", |_| logged += 1).await;
            let summary = issues.summary().unwrap();
            assert!(summary.starts_with("settling: refused"), "{summary}");
        }
        assert!(failures >= 90 / 5, "{failures}");
        assert_eq!(logged, 2);
        assert!(retry.is_failing() && retry.succeeded());
        assert!(readiness.is_ready() && !retry.is_failing());
        assert!(retry.failed(&"refused", |_| ()) <= bounds::TASK.first);
    }

    #[test]
    fn a_success_that_follows_no_failure_says_nothing_of_readiness() {
        let readiness = Readiness::new();
        let issues = ReadinessIssues::new(readiness.check("postgres"));
        let mut reporter = FailureReporter::with(issues.issue("settling"));
        assert!(!reporter.succeeded());
        assert!(!readiness.is_ready(), "it starts as not ready");
    }
}
