//! Topics that events wait for and that do not exist: since when, and whether to set them aside.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use service::Problems;

use crate::partitions::{PATIENCE, Partitions};

#[derive(Debug, Default)]
pub(crate) struct Unroutable(HashMap<String, Instant>);

impl Unroutable {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether events of the topic are to be held as unavailable: they have waited long enough, and
    /// others can be written.
    pub(crate) fn is_due(&self, topic: &str, partitions: &Partitions) -> bool {
        self.0
            .get(topic)
            .is_some_and(|since| since.elapsed() >= PATIENCE)
            && partitions.any_writable()
    }

    /// These are the topics that were in the way of the latest read.
    pub(crate) fn seen(&mut self, topics: &HashSet<String>, failing: &Problems) {
        for topic in topics {
            let since = *self.0.entry(topic.clone()).or_insert_with(Instant::now);
            // One that was just created is known in a moment.
            if since.elapsed() >= PATIENCE {
                failing.report(topic, "the topic does not exist and could not be created");
            }
        }
        if topics.is_empty() {
            for (topic, _) in self.0.drain() {
                failing.clear(topic);
            }
        }
    }
}
