//! One readiness check fed by many: it is ready while none of them has a problem.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Check, ReportReadiness};

/// What stands in the way of one thing, by who met it: a partition, a task. Clones share it.
///
/// Says nothing before the first [`ReadinessIssues::clear`] or [`ReadinessIssues::report`]: the check stays as it
/// was, so that one which waits at the start keeps its reason.
#[derive(Debug, Clone)]
pub struct ReadinessIssues {
    check: Check,
    open: Arc<Mutex<Open>>,
}

/// One part of [`ReadinessIssues`].
#[derive(Debug, Clone)]
pub struct Issue {
    issues: ReadinessIssues,
    who: String,
}

impl ReportReadiness for Issue {
    fn ready(&self) {
        self.issues.clear(&self.who);
    }

    fn not_ready(&self, reason: &str) {
        self.issues.report(&self.who, reason);
    }
}

#[derive(Debug, Default)]
struct Open {
    /// By who met it.
    problems: HashMap<String, Problem>,
    /// The same, oldest first, so that a change does not search thousands.
    by_age: BTreeSet<(OffsetDateTime, String)>,
}

#[derive(Debug)]
struct Problem {
    reason: String,
    since: OffsetDateTime,
}

impl ReadinessIssues {
    /// Feeds `check`.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            open: Arc::default(),
        }
    }

    /// Reports that `who` fails because of `reason`: since now, unless it failed before.
    pub fn report(&self, who: impl Display, reason: impl Display) {
        self.update([(who, Some(reason))]);
    }

    /// Clears what `who` reported.
    pub fn clear(&self, who: impl Display) {
        self.update([(who, None::<&str>)]);
    }

    /// [`Self::report`] for those with a reason and [`Self::clear`] for the others, in one step.
    pub fn update<W: Display, R: Display>(&self, news: impl IntoIterator<Item = (W, Option<R>)>) {
        let mut open = self.lock();
        for (who, reason) in news {
            match reason {
                Some(reason) => open.report(who.to_string(), reason.to_string()),
                None => open.clear(&who.to_string()),
            }
        }
        match open.summary() {
            None => self.check.ready(),
            Some(summary) => self.check.not_ready(summary),
        }
    }

    /// The issue of `who` alone.
    pub fn issue(&self, who: impl Display) -> Issue {
        Issue {
            issues: self.clone(),
            who: who.to_string(),
        }
    }

    /// As text: who fails, why and since when. `None` if nobody does.
    pub fn summary(&self) -> Option<String> {
        self.lock().summary()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn report(&mut self, who: String, reason: String) {
        if let Some(problem) = self.problems.get_mut(&who) {
            problem.reason = reason;
            return;
        }
        let since = OffsetDateTime::now_utc();
        self.by_age.insert((since, who.clone()));
        self.problems.insert(who, Problem { reason, since });
    }

    fn clear(&mut self, who: &str) {
        if let Some((who, problem)) = self.problems.remove_entry(who) {
            self.by_age.remove(&(problem.since, who));
        }
    }

    fn summary(&self) -> Option<String> {
        let (since, who) = self.by_age.first()?;
        let reason = &self.problems.get(who)?.reason;
        let since = since.replace_nanosecond(0).unwrap_or(*since);
        let since = since.format(&Rfc3339).unwrap_or_default();
        let others = match self.by_age.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Some(format!("{who}: {reason}, since {since}{others}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Readiness;

    #[test]
    fn it_is_ready_when_the_last_problem_is_gone() {
        let readiness = Readiness::new();
        let problems = ReadinessIssues::new(readiness.check("kafka"));
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
        let problems = ReadinessIssues::new(Readiness::new().check("kafka"));
        problems.report("t/2", "down");
        let begun = problems.lock().problems["t/2"].since;
        problems.report("t/1", "down");
        problems.report("t/2", "slow");
        assert_eq!(problems.lock().problems["t/2"].since, begun);
        let summary = problems.summary().unwrap();
        assert!(
            summary.starts_with("t/2: slow, since ") && summary.ends_with(" (and 1 more)"),
            "{summary}"
        );
    }

    #[test]
    fn many_are_told_at_once() {
        let problems = ReadinessIssues::new(Readiness::new().check("kafka"));
        problems.update((0..50_000).map(|n| (format!("t{n}"), Some("down"))));
        let summary = problems.summary().unwrap();
        assert!(summary.ends_with(" (and 49999 more)"), "{summary}");
        problems.update((0..50_000).map(|n| (n, (n == 7).then_some("slow"))));
        problems.update((0..50_000).map(|n| (format!("t{n}"), None::<&str>)));
        let summary = problems.summary().unwrap();
        assert!(summary.starts_with("7: slow, since "), "{summary}");
    }
}
