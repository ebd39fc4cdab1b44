//! What stands in the way, told to the readiness endpoint: the failing partitions, what Postgres
//! refuses, and a pipeline that does nothing although something waits.

use std::fmt::Display;
use std::time::{Duration, Instant};

use service::{Check, Problems, Readiness};

/// With something to send and nothing done for this long, a relay is not ready.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Shared by all tasks of the pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    kafka: Check,
    /// By partition.
    pub(crate) failing: Problems,
    /// By what the pipeline wants of it.
    pub(crate) postgres: Problems,
    progress: Check,
}

impl Health {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        let progress = readiness.check("progress");
        progress.ready();
        let kafka = readiness.check("kafka");
        Self {
            failing: Problems::new(kafka.clone()),
            postgres: Problems::new(readiness.check("postgres")),
            kafka,
            progress,
        }
    }

    pub(crate) fn kafka(&self) -> &Check {
        &self.kafka
    }

    /// Tells whether the work goes on: `stalled` is for how long nothing was done although `first`
    /// waits, of which nobody knows why unless a partition or Postgres fails.
    pub(crate) fn tell_progress(&self, stalled: Duration, first: impl Display) {
        if stalled < STALLED_AFTER {
            self.progress.ready();
            return;
        }
        let seconds = stalled.as_secs();
        let fails = [self.failing.summary(), self.postgres.summary()];
        let mut why = fails.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if why.is_empty() {
            "neither a partition nor Postgres fails".clone_into(&mut why);
        }
        self.progress.not_ready(format!(
            "nothing was published for {seconds} s although {first} waits; {why}"
        ));
    }
}

/// For how long nothing was done although something waited. A value of counters and times.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    done: u64,
    since: Option<Instant>,
}

impl Stall {
    /// What a look at `now` saw: how much was ever done, and whether something waits.
    pub(crate) fn look(&mut self, now: Instant, done: u64, waits: bool) -> Duration {
        if done != self.done || !waits {
            self.since = None;
        }
        self.done = done;
        if !waits {
            return Duration::ZERO;
        }
        now - *self.since.get_or_insert(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_first_look_that_saw_something_waiting() {
        let mut stall = Stall::default();
        let start = Instant::now();
        let mut look = |seconds: u64, done, waits| {
            let now = start + Duration::from_secs(seconds);
            stall.look(now, done, waits).as_secs()
        };
        assert_eq!(look(0, 5, false), 0);
        // Idle for long is no stall.
        assert_eq!(look(100, 5, true), 0);
        assert_eq!(look(110, 5, true), 10);
        assert_eq!(look(120, 6, true), 0, "something was done");
        assert_eq!(look(140, 6, true), 20);
        assert_eq!(look(150, 6, false), 0, "nothing waits");
        assert_eq!(look(160, 6, true), 0);
    }

    #[test]
    fn a_stalled_relay_says_what_waits_and_why() {
        let readiness = Readiness::new();
        let health = Health::new(&readiness);
        health.kafka.ready();
        health.postgres.clear("reading");
        health.tell_progress(STALLED_AFTER / 2, "x");
        assert!(readiness.is_ready());
        health.failing.report("orders/3", "broker is mute");
        health.tell_progress(STALLED_AFTER, "event 7 of orders/3");
        let reason = readiness.report().checks[0].reason.clone().unwrap();
        for part in [
            "for 30 s",
            "event 7 of orders/3",
            "orders/3: broker is mute, since 20",
        ] {
            assert!(reason.contains(part), "{part} in {reason}");
        }
        health.failing.clear("orders/3");
        health.tell_progress(Duration::ZERO, "");
        assert!(readiness.is_ready());
    }
}
