//! Topics that Kafka said there can never be. Pure bookkeeping.
//!
//! It may be wrong about "never": a name that collides with another topic's (`a_b` with `a.b`) is
//! free once that one is deleted. So a verdict is believed for a while, and then asked for anew by the
//! next event that needs the topic.

use std::collections::HashMap;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Verdicts(HashMap<String, Verdict>);

#[derive(Debug)]
struct Verdict {
    reason: String,
    at: Instant,
}

impl Verdicts {
    pub(crate) fn add(&mut self, topic: String, reason: String, at: Instant) {
        self.0.insert(topic, Verdict { reason, at });
    }

    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    /// Forgets those that have stood for so long.
    pub(crate) fn forget_old(&mut self, now: Instant, age: Duration) {
        self.0
            .retain(|_, verdict| now.duration_since(verdict.at) < age);
    }

    /// What Kafka said, by topic.
    pub(crate) fn reasons(&self) -> HashMap<String, String> {
        let verdicts = self.0.iter();
        verdicts
            .map(|(topic, verdict)| (topic.clone(), verdict.reason.clone()))
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
        let mut verdicts = Verdicts::default();
        verdicts.add("a_b".to_owned(), "collides".to_owned(), start);
        verdicts.forget_old(start + age / 2, age);
        assert!(verdicts.contains("a_b"));
        assert_eq!(verdicts.reasons()["a_b"], "collides");
        verdicts.forget_old(start + age, age);
        assert!(!verdicts.contains("a_b") && verdicts.reasons().is_empty());
    }
}
