//! Topics that events wait for and that are not there, and when to try to create each. Pure
//! bookkeeping.

use std::collections::HashMap;
use std::time::Duration;

use messaging::{ErrorKind, HIDDEN_TOPIC};
use service::LogThrottle;
use tokio::time::Instant;

/// A refusal is not asked for again sooner, and later each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: once the cause of a refusal is gone, the topic must soon be created.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How many are tried before the results are published and new requests are read.
const AT_ONCE: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Missing {
    topics: HashMap<String, Attempts>,
    turns: u64,
}

#[derive(Debug, Default)]
struct Attempts {
    /// When it was wanted or tried last, among the others. Those that were never tried come first, so
    /// that however many are refused, a new one does not wait for them.
    turn: (Tried, u64),
    /// Not before.
    next: Option<Instant>,
    /// Since the latest refusal.
    pause: Duration,
    log_throttle: LogThrottle,
    /// Why the topic is still missing.
    reason: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tried {
    #[default]
    Never,
    Before,
}

impl Missing {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether some still wait for their first turn.
    pub(crate) fn any_untried(&self) -> bool {
        let mut attempts = self.topics.values();
        attempts.any(|attempts| attempts.turn.0 == Tried::Never)
    }

    /// An event waits for this topic. True when that is news.
    pub(crate) fn want(&mut self, topic: &str) -> bool {
        let news = !self.topics.contains_key(topic);
        if news {
            self.attempts(topic);
        }
        news
    }

    fn attempts(&mut self, topic: &str) -> &mut Attempts {
        let turns = &mut self.turns;
        self.topics.entry(topic.to_owned()).or_insert_with(|| {
            *turns += 1;
            Attempts {
                turn: (Tried::Never, *turns),
                ..Attempts::default()
            }
        })
    }

    /// Those whose turn it is to try to create, in turn.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<String> {
        let due = |attempts: &Attempts| attempts.next.is_none_or(|next| next <= now);
        let mut all: Vec<_> = self
            .topics
            .iter_mut()
            .filter(|(_, attempts)| due(attempts))
            .collect();
        all.sort_unstable_by_key(|(_, attempts)| attempts.turn);
        let mut due = Vec::new();
        for (topic, attempts) in all.into_iter().take(AT_ONCE) {
            self.turns += 1;
            attempts.turn = (Tried::Before, self.turns);
            due.push(topic.clone());
        }
        due
    }

    /// The topic could not be created. What somebody must act on is tried less and less often, what
    /// passes by itself at each look. True when it is to be logged.
    pub(crate) fn failed(
        &mut self,
        topic: &str,
        reason: impl Into<String>,
        kind: ErrorKind,
        now: Instant,
    ) -> bool {
        let attempts = self.attempts(topic);
        attempts.reason = Some(reason.into());
        if kind == ErrorKind::Configuration {
            attempts.pause = (attempts.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            attempts.next = Some(now + attempts.pause);
        }
        attempts.log_throttle.is_due(now)
    }

    /// None could even be tried.
    pub(crate) fn all_failed(&mut self, reason: &str) {
        for attempts in self.topics.values_mut() {
            attempts.reason = Some(reason.to_owned());
        }
    }

    /// The topic need not be created and still is not to be seen. That is so for a moment where
    /// somebody else just created it; if it stays so, it is a failure like the others.
    pub(crate) fn hidden(&mut self, topic: &str, now: Instant) -> bool {
        let attempts = self.attempts(topic);
        if attempts.next.is_none() {
            attempts.next = Some(now);
            return false;
        }
        self.failed(topic, HIDDEN_TOPIC, ErrorKind::Configuration, now)
    }

    /// Why each still misses, as far as Kafka said.
    pub(crate) fn refusals(&self) -> HashMap<String, String> {
        let refused = self.topics.iter();
        refused
            .filter_map(|(topic, attempts)| Some((topic.clone(), attempts.reason.clone()?)))
            .collect()
    }

    /// Forgets those that nothing needs to be done about any more.
    pub(crate) fn forget(&mut self, is_settled: impl Fn(&str) -> bool) {
        self.topics.retain(|topic, _| !is_settled(topic));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_tried_less_and_less_often() {
        let mut missing = Missing::default();
        assert!(missing.want("t"));
        let start = Instant::now();
        let mut attempts = Vec::new();
        for second in 0..80 {
            let now = start + Duration::from_secs(second);
            assert!(!missing.want("t"), "no news");
            for topic in missing.due(now) {
                attempts.push(second);
                missing.failed(&topic, "refused", ErrorKind::Configuration, now);
            }
        }
        assert_eq!(attempts, [0, 1, 3, 7, 15, 31, 51, 71]);
        assert_eq!(missing.refusals()["t"], "refused");
        missing.forget(|topic| topic == "t");
        assert!(missing.is_empty());
        // Gone again: it starts over.
        assert!(missing.want("t"));
        assert_eq!(missing.due(start), ["t"]);
    }

    #[test]
    fn an_outage_is_tried_at_each_look_and_logged_now_and_then() {
        let mut missing = Missing::default();
        missing.want("t");
        let start = Instant::now();
        let mut logged = Vec::new();
        for second in 0..130 {
            let now = start + Duration::from_secs(second);
            assert_eq!(missing.due(now), ["t"]);
            if missing.failed("t", "away", ErrorKind::Transient, now) {
                logged.push(second);
            }
        }
        assert_eq!(logged, [0, 60, 120]);
    }

    #[test]
    fn what_stays_hidden_is_looked_for_less_often_and_told() {
        let mut missing = Missing::default();
        missing.want("t");
        let start = Instant::now();
        assert!(
            !missing.hidden("t", start),
            "somebody may just have created it"
        );
        assert!(missing.refusals().is_empty());
        assert_eq!(missing.due(start), ["t"]);
        assert!(missing.hidden("t", start));
        assert_eq!(missing.refusals()["t"], HIDDEN_TOPIC);
        assert!(missing.due(start).is_empty());
        assert!(!missing.hidden("t", start + FIRST_PAUSE), "was logged");
    }

    #[test]
    fn many_take_turns_and_a_new_one_comes_first() {
        let mut missing = Missing::default();
        let topics: Vec<String> = (0..40).map(|n| format!("t{n}")).collect();
        for topic in &topics {
            missing.want(topic);
        }
        let now = Instant::now();
        assert_eq!(missing.due(now), topics[..16]);
        missing.failed("t0", "away", ErrorKind::Transient, now);
        assert!(missing.any_untried());
        missing.want("new");
        assert_eq!(missing.due(now), topics[16..32]);
        let turn = missing.due(now);
        assert_eq!(turn[..8], topics[32..]);
        assert_eq!(turn[8], "new");
        assert_eq!(turn[9..], topics[..7]);
        assert!(!missing.any_untried());
    }
}
