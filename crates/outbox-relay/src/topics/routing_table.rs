//! What is known of the topics: how many partitions each has, which cannot be, and why others miss.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use messaging::{check_topic_name, partition_of};
use storage::outbox::Destination;

/// What is known of the topics. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topics(Arc<Known>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// Kafka was asked at least once, and answered.
    looked_up: bool,
    /// The number of partitions of each topic that events may be sent to.
    counts: HashMap<String, i32>,
    /// Topics that Kafka says there cannot be now, and what it said.
    impossible: HashMap<String, String>,
    /// Topics that miss, and why.
    refused: HashMap<String, String>,
}

/// Where an event goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Partition(Destination),
    /// Nothing is known of the topic (yet).
    Unknown,
    /// There can be no such topic, and why.
    Impossible(Cow<'a, str>),
}

impl Topics {
    pub(crate) fn new(
        mut counts: HashMap<String, i32>,
        impossible: HashMap<String, String>,
        refused: HashMap<String, String>,
    ) -> Self {
        counts.retain(|topic, partitions| *partitions > 0 && check_topic_name(topic).is_ok());
        Self(Arc::new(Known {
            looked_up: true,
            counts,
            impossible,
            refused,
        }))
    }

    /// Whether Kafka has said which topics there are. Before that, nothing is known to be missing.
    pub(crate) fn are_looked_up(&self) -> bool {
        self.0.looked_up
    }

    /// Updates only why topics are missing; returns whether that is a change.
    pub(crate) fn refuse(&mut self, refused: HashMap<String, String>) -> bool {
        let changed = self.0.refused != refused;
        if changed {
            Arc::make_mut(&mut self.0).refused = refused;
        }
        changed
    }

    pub(crate) fn route(&self, topic: &str, key: &str) -> Route<'_> {
        if let Some(partition_count) = self.0.counts.get(topic).copied() {
            return Route::Partition(Destination {
                partition_count,
                partition: partition_of(key.as_bytes(), partition_count),
            });
        }
        if let Err(invalid) = check_topic_name(topic) {
            return Route::Impossible(Cow::Owned(invalid.to_string()));
        }
        match self.0.impossible.get(topic) {
            Some(error) => Route::Impossible(Cow::Borrowed(error)),
            None => Route::Unknown,
        }
    }

    /// Whether it is known where events of the topic go, or that they can go nowhere.
    pub(crate) fn knows(&self, topic: &str) -> bool {
        !matches!(self.route(topic, ""), Route::Unknown)
    }

    /// How many partitions the topic has: 0 while nothing is known of it, `None` where there can be
    /// no such topic.
    pub(crate) fn partition_count(&self, topic: &str) -> Option<i32> {
        match self.route(topic, "") {
            Route::Partition(destination) => Some(destination.partition_count),
            Route::Unknown => Some(0),
            Route::Impossible(_) => None,
        }
    }

    /// Why a topic misses, as far as Kafka said.
    pub(crate) fn refusal(&self, topic: &str) -> Option<&str> {
        self.0.refused.get(topic).map(String::as_str)
    }

    /// Topics that had another number of partitions, or are gone.
    pub(crate) fn changed(&self, news: &Self) -> Vec<String> {
        self.0
            .counts
            .iter()
            .filter(|(topic, count)| news.0.counts.get(*topic) != Some(count))
            .map(|(topic, _)| topic.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_of_kafka_is_impossible_whatever_kafka_lists_or_says() {
        let internal = "__share_group_state";
        let counts = HashMap::from([(internal.to_owned(), 6)]);
        let topics = Topics::new(counts, HashMap::new(), HashMap::new());
        assert!(matches!(topics.route(internal, "k"), Route::Impossible(_)));
        assert!(topics.knows(internal));
        let nothing = Topics::default();
        let Route::Impossible(reason) = nothing.route("a b", "k") else {
            panic!("there can be such a topic");
        };
        assert!(reason.contains("' '"), "{reason}");
        assert_eq!(nothing.route("__debezium-heartbeat.x", "k"), Route::Unknown);
    }

    #[test]
    fn a_topic_that_is_there_is_possible() {
        let counts = HashMap::from([("t".to_owned(), 1)]);
        let impossible = HashMap::from(["t", "u"].map(|t| (t.to_owned(), "collides".to_owned())));
        let topics = Topics::new(counts, impossible, HashMap::new());
        assert_eq!(topics.partition_count("t"), Some(1));
        assert_eq!(topics.route("u", "k"), Route::Impossible("collides".into()));
    }
}
