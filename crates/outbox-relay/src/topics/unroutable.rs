//! Topics that events wait for and that do not exist: since when, where, and whether to hold the
//! events. Pure bookkeeping.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use domain::Slot;
use service::ReadinessIssues;
use tokio::time::Instant;

use crate::event::PATIENCE;
use crate::topics::routing_table::Topics;

#[derive(Debug, Default)]
pub(crate) struct Unroutable {
    waits: HashMap<String, Wait>,
    /// The same topics, in the order in which they are asked for.
    turns: VecDeque<String>,
}

/// A topic is remembered for this long after it was last seen to be missed: on their way from pending
/// to held, events are seen in neither place.
const REMEMBERED: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Wait {
    since: Instant,
    /// When an event was last seen that waits for it.
    seen: Instant,
    /// Where the latest read met an event of the topic.
    slots: HashSet<Slot>,
}

impl Unroutable {
    /// Whether events of the topic are to be held as unavailable: they have waited long enough.
    pub(crate) fn is_due(&self, topic: &str, now: Instant) -> bool {
        self.waits
            .get(topic)
            .is_some_and(|wait| now.duration_since(wait.since) >= PATIENCE)
    }

    /// The latest read of these slots met such events here, and nowhere else in them.
    pub(crate) fn read(
        &mut self,
        slots: &HashSet<Slot>,
        met: HashSet<(String, Slot)>,
        now: Instant,
    ) {
        for wait in self.waits.values_mut() {
            wait.slots.retain(|slot| !slots.contains(slot));
        }
        for (topic, slot) in met {
            self.wait(topic, now).slots.insert(slot);
        }
    }

    /// Reports the topics that events still wait for: events that were read, in slots that are
    /// `owned`, and those that are `held` as unavailable. Forgets the others.
    pub(crate) fn tell(
        &mut self,
        owned: impl Fn(Slot) -> bool,
        held: &HashSet<String>,
        topics: &Topics,
        failing: &ReadinessIssues,
        now: Instant,
    ) {
        for topic in held {
            self.wait(topic.clone(), now);
        }
        let mut news = Vec::new();
        self.waits.retain(|topic, wait| {
            wait.slots.retain(|slot| owned(*slot));
            if !wait.slots.is_empty() || held.contains(topic) {
                wait.seen = now;
            }
            let waits = now.duration_since(wait.seen) < REMEMBERED;
            let missing = waits && !topics.knows(topic);
            // One that was just created is known in a moment.
            if missing && now.duration_since(wait.since) >= PATIENCE {
                let unknown = "unknown yet whether the topic exists";
                let reason = topics.refusal(topic).unwrap_or(unknown);
                news.push((topic.clone(), Some(reason)));
            } else if !missing {
                news.push((topic.clone(), None));
            }
            missing
        });
        if self.turns.len() > self.waits.len() {
            self.turns.retain(|topic| self.waits.contains_key(topic));
        }
        if !news.is_empty() {
            failing.update(news);
        }
    }

    /// Offers the topics that are waited for, until one is not taken: that one is the first next time.
    pub(crate) fn ask(&mut self, mut is_taken: impl FnMut(&str) -> bool) {
        let taken = self.turns.iter().take_while(|topic| is_taken(topic));
        let taken = taken.count();
        self.turns.rotate_left(taken);
    }

    fn wait(&mut self, topic: String, since: Instant) -> &mut Wait {
        self.waits.entry(topic).or_insert_with_key(|topic| {
            self.turns.push_back(topic.clone());
            Wait {
                since,
                seen: since,
                slots: HashSet::new(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::Readiness;

    const A: &str = "a";

    fn slots(numbers: &[i32]) -> HashSet<Slot> {
        let slot = |number: &i32| Slot::try_from(*number).expect("a slot");
        numbers.iter().map(slot).collect()
    }

    fn met(numbers: &[i32]) -> HashSet<(String, Slot)> {
        let slots = slots(numbers).into_iter();
        slots.map(|slot| (A.to_owned(), slot)).collect()
    }

    /// What is asked for when there is room for so many.
    fn asked(unroutable: &mut Unroutable, room: usize) -> Vec<String> {
        let mut asked = Vec::new();
        unroutable.ask(|topic| {
            let has_room = asked.len() < room;
            if has_room {
                asked.push(topic.to_owned());
            }
            has_room
        });
        asked
    }

    #[test]
    fn reads_of_other_slots_do_not_make_a_topic_forgotten() {
        let failing = ReadinessIssues::new(Readiness::new().check("kafka"));
        let (none, topics) = (HashSet::new(), Topics::default());
        let mut unroutable = Unroutable::default();
        let start = Instant::now();
        unroutable.read(&slots(&[0, 1]), met(&[1]), start);
        let due = start + PATIENCE;
        unroutable.read(&slots(&[2, 3]), met(&[]), due);
        unroutable.tell(|_| true, &none, &topics, &failing, due);
        assert!(unroutable.is_due(A, due));
        assert!(!unroutable.is_due(A, start + PATIENCE * 4 / 5));
        let summary = failing.summary().expect("a problem");
        assert!(
            summary.contains("a: unknown yet whether the topic exists"),
            "{summary}"
        );

        unroutable.read(&slots(&[0, 1]), met(&[]), due);
        unroutable.tell(|_| true, &none, &topics, &failing, due);
        assert!(
            failing.summary().is_some(),
            "they may be on their way to held"
        );
        unroutable.tell(|_| true, &none, &topics, &failing, due + REMEMBERED);
        assert!(unroutable.waits.is_empty());
        assert_eq!(failing.summary(), None);
    }

    #[test]
    fn held_events_wait_too_and_those_of_lost_slots_do_not() {
        let failing = ReadinessIssues::new(Readiness::new().check("kafka"));
        let (none, topics) = (HashSet::new(), Topics::default());
        let held = HashSet::from([A.to_owned()]);
        let mut unroutable = Unroutable::default();
        let start = Instant::now();
        unroutable.tell(|_| true, &held, &topics, &failing, start);
        assert_eq!(failing.summary(), None, "it may be created in a moment");
        unroutable.tell(|_| true, &held, &topics, &failing, start + PATIENCE);
        assert!(failing.summary().is_some());
        assert_eq!(asked(&mut unroutable, 9), [A]);

        unroutable.read(&slots(&[7]), met(&[7]), start);
        unroutable.tell(|_| true, &none, &topics, &failing, start + PATIENCE);
        assert!(!unroutable.waits.is_empty());
        let later = start + PATIENCE + REMEMBERED;
        unroutable.tell(|_| false, &none, &topics, &failing, later);
        assert!(unroutable.waits.is_empty());
        assert_eq!(failing.summary(), None);
    }

    #[test]
    fn all_topics_have_their_turn_whatever_room_there_is() {
        let failing = ReadinessIssues::new(Readiness::new().check("kafka"));
        let topics = Topics::default();
        let mut unroutable = Unroutable::default();
        let start = Instant::now();
        let mut held = HashSet::from(["a", "b", "c", "d", "e"].map(str::to_owned));
        unroutable.tell(|_| true, &held, &topics, &failing, start);
        let mut all = HashSet::new();
        for _ in 0..3 {
            all.extend(asked(&mut unroutable, 2));
        }
        assert_eq!(all, held);

        // Those that nobody waits for any more have none, and those that come back have one.
        let gone: Vec<String> = ["b", "d"].iter().filter_map(|t| held.take(*t)).collect();
        unroutable.tell(|_| true, &held, &topics, &failing, start + REMEMBERED);
        assert_eq!(unroutable.waits.len(), 3);
        held.extend(gone);
        unroutable.tell(|_| true, &held, &topics, &failing, start + REMEMBERED);
        let mut turns = asked(&mut unroutable, 9);
        turns.sort_unstable();
        assert_eq!(turns, ["a", "b", "c", "d", "e"]);
    }
}
