//! Topics that Kafka says can never exist. Pure bookkeeping.
//!
//! It may be wrong about "never": a name that collides with another topic's (`a_b` with `a.b`) is
//! free once that one is deleted. So an answer counts for a while, and then the next event that
//! needs the topic asks again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct RejectedTopics(HashMap<String, Rejection>);

#[derive(Debug)]
struct Rejection {
    reason: String,
    at: Instant,
}

impl RejectedTopics {
    pub(crate) fn add(&mut self, topic: String, reason: String, at: Instant) {
        self.0.insert(topic, Rejection { reason, at });
    }

    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    /// Forgets those that have stood for so long.
    pub(crate) fn forget_old(&mut self, now: Instant, age: Duration) {
        self.0
            .retain(|_, rejection| now.duration_since(rejection.at) < age);
    }

    /// What Kafka said, by topic.
    pub(crate) fn reasons(&self) -> HashMap<String, String> {
        let rejected = self.0.iter();
        rejected
            .map(|(topic, rejection)| (topic.clone(), rejection.reason.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_stands_for_a_while() {
        let age = Duration::from_secs(20);
        let start = Instant::now();
        let mut rejected = RejectedTopics::default();
        rejected.add("a_b".to_owned(), "collides".to_owned(), start);
        rejected.forget_old(start + age / 2, age);
        assert!(rejected.contains("a_b"));
        assert_eq!(rejected.reasons()["a_b"], "collides");
        rejected.forget_old(start + age, age);
        assert!(!rejected.contains("a_b") && rejected.reasons().is_empty());
    }
}
