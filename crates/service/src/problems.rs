//! One readiness check fed by many: it is ready while none of them has a problem.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Check;

/// What stands in the way of one thing, by who met it: a partition, a task. Clones share it.
///
/// Says nothing before the first [`Problems::clear`] or [`Problems::report`]: the check stays as it
/// was, so that one which waits at the start keeps its reason.
#[derive(Debug, Clone)]
pub struct Problems {
    check: Check,
    open: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Problems {
    /// Feeds `check`.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            open: Arc::default(),
        }
    }

    /// `who` cannot go on, because of `reason`.
    pub fn report(&self, who: impl Display, reason: impl Display) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(who.to_string(), reason.to_string());
        self.tell(&open);
    }

    /// `who` can go on, or is gone.
    pub fn clear(&self, who: impl Display) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&who.to_string());
        self.tell(&open);
    }

    fn tell(&self, open: &BTreeMap<String, String>) {
        match open.first_key_value() {
            None => self.check.ready(),
            Some((who, reason)) if open.len() == 1 => {
                self.check.not_ready(format!("{who}: {reason}"));
            }
            Some((who, reason)) => {
                let others = open.len() - 1;
                self.check
                    .not_ready(format!("{who}: {reason} (and {others} more)"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Readiness;

    #[test]
    fn it_is_ready_when_the_last_problem_is_gone() {
        let readiness = Readiness::new();
        let problems = Problems::new(readiness.check("kafka"));
        assert!(!readiness.is_ready());
        problems.report("t/1", "down");
        problems.report("t/2", "slow");
        problems.clear("t/1");
        let reason = readiness.report().checks[0].reason.clone();
        assert_eq!(reason.as_deref(), Some("t/2: slow"));
        problems.clear("t/2");
        assert!(readiness.is_ready());
    }
}
