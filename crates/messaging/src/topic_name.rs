//! Names that no topic of events can have, known without asking Kafka.
//!
//! Kafka would refuse most of them. Its own topics it would create on request, with another number
//! of partitions than its coordinators compute with: consumer groups and transactions then fail.

/// As Kafka's `Topic.validate` has it: a name is a part of a folder's name there.
const LONGEST: usize = 249;

/// What Kafka keeps in topics. Other names with two underscores are anybody's.
const INTERNAL: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// Why there can be no topic of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    #[error("the topic's name is empty")]
    Empty,
    #[error("the topic's name has {0} characters; Kafka allows {LONGEST}")]
    TooLong(usize),
    #[error(
        "the topic's name contains {0:?}; Kafka allows ASCII letters, digits, '.', '_' and '-'"
    )]
    Character(char),
    #[error("a topic cannot be named \".\" or \"..\"")]
    Dots,
    #[error("the topic is one of Kafka's own")]
    Internal,
}

/// Whether a topic of events can have this name.
///
/// # Errors
/// When it cannot, now or later, in whatever cluster.
pub fn check_topic_name(name: &str) -> Result<(), InvalidTopicName> {
    let takes = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        return Err(InvalidTopicName::Empty);
    }
    if let Some(other) = name.chars().find(|c| !takes(*c)) {
        return Err(InvalidTopicName::Character(other));
    }
    if name.len() > LONGEST {
        return Err(InvalidTopicName::TooLong(name.len()));
    }
    if matches!(name, "." | "..") {
        return Err(InvalidTopicName::Dots);
    }
    if INTERNAL.contains(&name) {
        return Err(InvalidTopicName::Internal);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use InvalidTopicName as I;

    #[test]
    fn a_name_is_judged_as_kafka_does() {
        let longest = "x".repeat(LONGEST);
        for good in [
            "a",
            "A-z_0.9",
            "...",
            "-",
            "__debezium-heartbeat.x",
            "__consumer_offsets_",
            "_consumer_offsets",
            &longest,
        ] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(LONGEST + 1);
        for (wrong, why) in [
            ("", I::Empty),
            (".", I::Dots),
            ("..", I::Dots),
            ("a b", I::Character(' ')),
            ("a/b", I::Character('/')),
            ("größe", I::Character('ö')),
            ("a\n", I::Character('\n')),
            (&too_long, I::TooLong(250)),
            ("__consumer_offsets", I::Internal),
            ("__transaction_state", I::Internal),
            ("__share_group_state", I::Internal),
            ("__cluster_metadata", I::Internal),
        ] {
            assert_eq!(check_topic_name(wrong), Err(why), "{wrong:?}");
        }
    }
}
