//! What the readiness endpoint reports: failing partitions, failing Postgres calls, and a pipeline
//! that makes no progress although an event waits.

use std::fmt::Display;
use std::time::Duration;

use service::{Check, Readiness, ReadinessIssues};

/// An event that has been the first of its partition for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Shared by all tasks of the pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    kafka: Check,
    /// By partition.
    pub(crate) failing: ReadinessIssues,
    /// By what the pipeline wants of it.
    pub(crate) postgres: ReadinessIssues,
    progress: Check,
}

impl Health {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        let progress = readiness.check("progress");
        progress.ready();
        let kafka = readiness.check("kafka");
        Self {
            failing: ReadinessIssues::new(kafka.clone()),
            postgres: ReadinessIssues::new(readiness.check("postgres")),
            kafka,
            progress,
        }
    }

    pub(crate) fn kafka(&self) -> &Check {
        &self.kafka
    }

    /// Reports whether the pipeline makes progress. `waiting` is the event that has been the first
    /// of its partition for longest, and how long it has been seen there. The reason is known only
    /// if a partition or a Postgres call fails.
    pub(crate) fn tell_progress(&self, waiting: Option<(Duration, impl Display)>) {
        let Some((waited, event)) = waiting.filter(|(waited, _)| *waited >= STUCK_AFTER) else {
            self.progress.ready();
            return;
        };
        let seconds = waited.as_secs();
        let fails = [self.failing.summary(), self.postgres.summary()];
        let mut why = fails.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if why.is_empty() {
            "no partition and no Postgres call is failing".clone_into(&mut why);
        }
        self.progress
            .not_ready(format!("{event} has waited for {seconds} s; {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_relay_says_what_waits_and_why() {
        let readiness = Readiness::new();
        let health = Health::new(&readiness);
        health.kafka.ready();
        health.postgres.clear("reading");
        health.tell_progress(Some((STUCK_AFTER / 2, "x")));
        assert!(readiness.is_ready());
        health.failing.report("orders/3", "broker is mute");
        health.tell_progress(Some((STUCK_AFTER, "event 7 of orders/3")));
        let reason = readiness.report().checks[0].reason.clone().unwrap();
        for part in [
            "event 7 of orders/3 has waited for 30 s",
            "orders/3: broker is mute, since 20",
        ] {
            assert!(reason.contains(part), "{part} in {reason}");
        }
        health.failing.clear("orders/3");
        health.tell_progress(None::<(Duration, &str)>);
        assert!(readiness.is_ready());
    }
}
