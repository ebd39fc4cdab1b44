//! Whether the process can do its work, and if not, why: a list of named checks that the parts of
//! the process report on. It never probes anything itself.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use time::OffsetDateTime;

/// The checks of a process. Clones share them. Without a check it is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<CheckReport>>>,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Ready when every check is.
    pub status: Status,
    /// The checks, in the order in which they were made.
    pub checks: Vec<CheckReport>,
}

/// The state of all checks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Status {
    /// Every check is ready.
    #[serde(rename = "ready")]
    Ready,
    /// At least one check is not.
    #[serde(rename = "not ready")]
    NotReady,
}

/// The state of one check.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// What is checked, such as `postgres`.
    pub name: &'static str,
    /// Whether it is in order.
    pub ready: bool,
    /// Why it is not; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When `ready` last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

impl Readiness {
    /// A readiness without checks.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Adds a check, not ready with the reason "starting". Keep the handle for as long as somebody
    /// reports: once its last clone is dropped the check is not ready for good.
    pub fn check(&self, name: &'static str) -> Check {
        let mut checks = self.lock();
        checks.push(CheckReport {
            name,
            ready: false,
            reason: Some("starting".to_owned()),
            since: OffsetDateTime::now_utc(),
        });
        Check {
            reporter: Arc::new(Reporter {
                readiness: self.clone(),
                index: checks.len() - 1,
                name,
            }),
        }
    }

    /// Whether every check is ready.
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|check| check.ready)
    }

    /// The state of every check at this moment.
    pub fn report(&self) -> Report {
        let checks = self.lock().clone();
        let ready = checks.iter().all(|check| check.ready);
        Report {
            status: if ready {
                Status::Ready
            } else {
                Status::NotReady
            },
            checks,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<CheckReport>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports on one check. Clones report on the same one; the last report wins.
#[derive(Debug, Clone)]
#[must_use = "a dropped check is never ready"]
pub struct Check {
    reporter: Arc<Reporter>,
}

#[derive(Debug)]
struct Reporter {
    readiness: Readiness,
    index: usize,
    name: &'static str,
}

impl Check {
    /// In order. Logged when it was not before.
    pub fn ready(&self) {
        if self.set_ready() {
            tracing::info!(check = self.reporter.name, "ready");
        }
    }

    /// Out of order, with a reason for the operator. Logged when it was in order before; a new
    /// reason alone only changes the report.
    pub fn not_ready(&self, reason: impl Display) {
        let reason = reason.to_string();
        if self.set_not_ready(&reason) {
            tracing::warn!(check = self.reporter.name, reason, "not ready");
        }
    }

    /// The state this check last reported.
    pub fn is_ready(&self) -> bool {
        self.reporter.readiness.lock()[self.reporter.index].ready
    }

    /// Returns whether this is a change. Logs nothing.
    pub(crate) fn set_ready(&self) -> bool {
        self.reporter.set(true, None)
    }

    /// Returns whether this is a change. Logs nothing.
    pub(crate) fn set_not_ready(&self, reason: &str) -> bool {
        self.reporter.set(false, Some(reason.to_owned()))
    }
}

impl Reporter {
    fn set(&self, ready: bool, reason: Option<String>) -> bool {
        let mut checks = self.readiness.lock();
        let check = &mut checks[self.index];
        let changed = check.ready != ready;
        check.reason = reason;
        if changed {
            check.ready = ready;
            check.since = OffsetDateTime::now_utc();
        }
        changed
    }
}

impl Drop for Reporter {
    /// Nobody can take the last report back any more, so it must not stand if it was "ready".
    fn drop(&mut self) {
        self.set(false, Some("no longer watched".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(readiness: &Readiness) -> Option<String> {
        readiness.report().checks[0].reason.clone()
    }

    #[test]
    fn a_check_starts_not_ready_and_every_check_counts() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let postgres = readiness.check("postgres");
        let kafka = readiness.check("kafka");
        assert_eq!(reason(&readiness).as_deref(), Some("starting"));
        postgres.ready();
        assert!(postgres.is_ready());
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report().status, Status::NotReady);
        kafka.ready();
        assert!(readiness.is_ready());
        assert_eq!(readiness.report().status, Status::Ready);
        assert_eq!(reason(&readiness), None);
        kafka.not_ready("connection refused");
        assert!(!readiness.is_ready());
    }

    #[test]
    fn since_moves_with_the_state_and_not_with_the_reason() {
        let readiness = Readiness::new();
        let check = readiness.check("postgres");
        let since = readiness.report().checks[0].since;
        check.not_ready("connection refused");
        assert_eq!(reason(&readiness).as_deref(), Some("connection refused"));
        assert_eq!(readiness.report().checks[0].since, since);
        check.ready();
        assert!(readiness.report().checks[0].since > since);
    }

    #[test]
    fn a_dropped_check_is_not_ready_once_its_last_clone_is_gone() {
        let readiness = Readiness::new();
        let check = readiness.check("postgres");
        let clone = check.clone();
        check.ready();
        drop(check);
        assert!(readiness.is_ready());
        drop(clone);
        assert!(!readiness.is_ready());
        assert_eq!(reason(&readiness).as_deref(), Some("no longer watched"));
    }
}
