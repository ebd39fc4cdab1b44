//! Moving the leaders of partitions, in the protocol's own bytes:
//! <https://kafka.apache.org/protocol>.

use std::time::Duration;

use local_stack::testing::admin::request;
use tokio::time::timeout;

use crate::torture::fault::BROKERS;

const ALTER_PARTITION_REASSIGNMENTS: (i16, i16) = (45, 0);
const ELECT_LEADERS: (i16, i16) = (43, 1);
const PREFERRED: u8 = 0;
const TIMEOUT_MS: i32 = 10_000;
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// No tagged fields.
const NO_TAGS: u8 = 0;

/// Lets every broker lead another part of these topics' partitions. Whether Kafka does so is not
/// looked at: it may be in the middle of something else.
pub(crate) async fn move_leaders(broker: &str, topics: &[&str], partitions: i32, by: usize) {
    let orders = preferences(topics, partitions, by);
    for (kind, body) in [
        (ALTER_PARTITION_REASSIGNMENTS, orders),
        (ELECT_LEADERS, election()),
    ] {
        let broker = broker.to_owned();
        // It panics where Kafka does not answer.
        let asked = tokio::spawn(async move { request(&broker, kind, &body).await });
        let _ = timeout(ANSWERS_WITHIN, asked).await;
    }
}

/// All brokers stay replicas of each partition; which of them is the first, the preferred leader,
/// changes.
fn preferences(topics: &[&str], partitions: i32, by: usize) -> Vec<u8> {
    // The header of this request ends with tags too.
    let mut body = vec![NO_TAGS];
    body.extend(TIMEOUT_MS.to_be_bytes());
    body.push(length(topics.len()));
    for topic in topics {
        body.push(length(topic.len()));
        body.extend(topic.as_bytes());
        body.push(length(usize::try_from(partitions).expect("few partitions")));
        for (place, partition) in (0..partitions).enumerate() {
            body.extend(partition.to_be_bytes());
            body.push(length(BROKERS));
            for replica in 0..BROKERS {
                let id = 1 + (place + by + replica) % BROKERS;
                body.extend(i32::try_from(id).expect("few brokers").to_be_bytes());
            }
            body.push(NO_TAGS);
        }
        body.push(NO_TAGS);
    }
    body.push(NO_TAGS);
    body
}

/// Of all partitions.
fn election() -> Vec<u8> {
    let mut body = vec![PREFERRED];
    body.extend((-1_i32).to_be_bytes());
    body.extend(TIMEOUT_MS.to_be_bytes());
    body
}

/// As compact arrays and texts have it: one more, in seven bits.
fn length(length: usize) -> u8 {
    let length = u8::try_from(length + 1).expect("it is short");
    assert!(length < 0x80, "it takes one byte");
    length
}
