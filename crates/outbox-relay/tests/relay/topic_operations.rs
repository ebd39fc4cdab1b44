//! What operators do to topics while the relay runs, in the protocol's own bytes:
//! <https://kafka.apache.org/protocol>.

use local_stack::testing::admin::{put_text, request};

const CREATE_PARTITIONS: i16 = 37;
const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
const TIMEOUT_MS: i32 = 10_000;

/// The topic has `count` partitions from now on.
pub(crate) async fn grow_topic(brokers: &str, topic: &str, count: i32) {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, topic);
    body.extend(count.to_be_bytes());
    // The brokers choose where they lie.
    body.extend((-1_i32).to_be_bytes());
    body.extend(TIMEOUT_MS.to_be_bytes());
    // Not only to be checked.
    body.push(0);
    let answer = request(brokers, (CREATE_PARTITIONS, 0), &body).await;
    assert_eq!(error_code(&answer, topic), 0, "{answer:?}");
}

/// The topic takes no batch of more bytes than this from now on.
pub(crate) async fn limit_messages(brokers: &str, topic: &str, bytes: i32) {
    // One resource, a topic, of which one setting is set.
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(2);
    put_text(&mut body, topic);
    body.extend(1_i32.to_be_bytes());
    put_text(&mut body, "max.message.bytes");
    body.push(0);
    put_text(&mut body, &bytes.to_string());
    // Not only to be checked.
    body.push(0);
    let answer = request(brokers, (INCREMENTAL_ALTER_CONFIGS, 0), &body).await;
    // Behind the request's number, the throttle's time and the number of resources.
    assert_eq!(answer[12..14], [0, 0], "{answer:?}");
}

/// What follows the topic's name in an answer about it alone.
fn error_code(answer: &[u8], topic: &str) -> i16 {
    let name = answer
        .windows(topic.len())
        .position(|part| part == topic.as_bytes())
        .unwrap_or_else(|| panic!("{topic} in {answer:?}"));
    let code = name + topic.len();
    i16::from_be_bytes([answer[code], answer[code + 1]])
}
