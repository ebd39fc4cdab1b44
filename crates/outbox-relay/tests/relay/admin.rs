//! What operators do to topics while the relay runs, in the protocol's own bytes:
//! <https://kafka.apache.org/protocol>.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DELETE_TOPICS: i16 = 20;
const CREATE_PARTITIONS: i16 = 37;
const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
const TIMEOUT_MS: i32 = 10_000;

pub(crate) async fn delete_topic(brokers: &str, topic: &str) {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, topic);
    body.extend(TIMEOUT_MS.to_be_bytes());
    let answer = request(brokers, (DELETE_TOPICS, 1), &body).await;
    assert_eq!(error_code(&answer, topic), 0, "{answer:?}");
}

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

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
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

pub(crate) async fn request(brokers: &str, (kind, version): (i16, i16), body: &[u8]) -> Vec<u8> {
    let mut message = [kind.to_be_bytes(), version.to_be_bytes()].concat();
    // A number that comes back, and no name of the client.
    message.extend(1_i32.to_be_bytes());
    message.extend((-1_i16).to_be_bytes());
    message.extend(body);
    let mut broker = TcpStream::connect(brokers).await.unwrap();
    let length = u32::try_from(message.len()).unwrap();
    broker.write_u32(length).await.unwrap();
    broker.write_all(&message).await.unwrap();
    let length = broker.read_u32().await.unwrap();
    let mut answer = vec![0; usize::try_from(length).unwrap()];
    broker.read_exact(&mut answer).await.unwrap();
    answer
}
