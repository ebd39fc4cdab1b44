//! What stands in the way, told to the readiness endpoint: the failing partitions, what Postgres
//! refuses, and a pipeline that does nothing although something waits.

use std::fmt::Display;
use std::time::Duration;

use service::{Check, Readiness, ReadinessIssues};

/// An event that was first of its partition for this long is stuck.
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

    /// Tells whether the work goes on: `waiting` is the event that has been the first of its partition
    /// for longest, and for how long it was seen to be. Nobody knows why it waits unless a partition or
    /// Postgres fails.
    pub(crate) fn tell_progress(&self, waiting: Option<(Duration, impl Display)>) {
        let Some((waited, event)) = waiting.filter(|(waited, _)| *waited >= STUCK_AFTER) else {
            self.progress.ready();
            return;
        };
        let seconds = waited.as_secs();
        let fails = [self.failing.summary(), self.postgres.summary()];
        let mut why = fails.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if why.is_empty() {
            "neither a partition nor Postgres fails".clone_into(&mut why);
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
