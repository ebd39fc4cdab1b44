//! One readiness check fed by many: it is ready while none of them has a problem.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Check;

/// What stands in the way of one thing, by who met it: a partition, a task. Clones share it.
///
/// Says nothing before the first [`Problems::clear`] or [`Problems::report`]: the check stays as it
/// was, so that one which waits at the start keeps its reason.
#[derive(Debug, Clone)]
pub struct Problems {
    check: Check,
    open: Arc<Mutex<Open>>,
}

/// By who met it.
type Open = BTreeMap<String, Problem>;

#[derive(Debug)]
struct Problem {
    reason: String,
    since: OffsetDateTime,
}

impl Problems {
    /// Feeds `check`.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            open: Arc::default(),
        }
    }

    /// `who` cannot go on, because of `reason`; since now, unless it could not before.
    pub fn report(&self, who: impl Display, reason: impl Display) {
        let mut open = self.lock();
        let reason = reason.to_string();
        open.entry(who.to_string())
            .and_modify(|problem| problem.reason.clone_from(&reason))
            .or_insert_with(|| Problem {
                reason,
                since: OffsetDateTime::now_utc(),
            });
        self.tell(&open);
    }

    /// `who` can go on, or is gone.
    pub fn clear(&self, who: impl Display) {
        let mut open = self.lock();
        open.remove(&who.to_string());
        self.tell(&open);
    }

    /// In words: who cannot go on, why and since when. `None` when everybody can.
    pub fn summary(&self) -> Option<String> {
        summary(&self.lock())
    }

    fn tell(&self, open: &Open) {
        match summary(open) {
            None => self.check.ready(),
            Some(summary) => self.check.not_ready(summary),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn summary(open: &Open) -> Option<String> {
    let (who, Problem { reason, since }) = open.iter().min_by_key(|(_, p)| p.since)?;
    let since = since.replace_nanosecond(0).unwrap_or(*since);
    let since = since.format(&Rfc3339).unwrap_or_default();
    let others = match open.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    Some(format!("{who}: {reason}, since {since}{others}"))
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
        let reason = readiness.report().checks[0].reason.clone().unwrap();
        assert!(reason.starts_with("t/2: slow, since 20"), "{reason}");
        assert_eq!(problems.summary(), Some(reason));
        problems.clear("t/2");
        assert_eq!(problems.summary(), None);
        assert!(readiness.is_ready());
    }

    #[test]
    fn the_oldest_is_named_and_stays_as_old_as_it_is() {
        let problems = Problems::new(Readiness::new().check("kafka"));
        problems.report("t/2", "down");
        let begun = problems.open.lock().unwrap()["t/2"].since;
        problems.report("t/1", "down");
        problems.report("t/2", "slow");
        assert_eq!(problems.open.lock().unwrap()["t/2"].since, begun);
        let summary = problems.summary().unwrap();
        assert!(
            summary.starts_with("t/2: slow, since ") && summary.ends_with(" (and 1 more)"),
            "{summary}"
        );
    }
}
