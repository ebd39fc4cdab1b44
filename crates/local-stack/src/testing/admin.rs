//! What operators do to Kafka while the services run, in the protocol's own bytes:
//! <https://kafka.apache.org/protocol>.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DELETE_TOPICS: (i16, i16) = (20, 1);
const ALTER_CLIENT_QUOTAS: (i16, i16) = (49, 0);
const TIMEOUT_MS: i32 = 10_000;

/// Deletes a topic; false when there is none.
///
/// # Panics
/// When Kafka cannot be asked or refuses.
pub async fn delete_topic(broker: &str, topic: &str) -> bool {
    const UNKNOWN_TOPIC: i16 = 3;
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, topic);
    body.extend(TIMEOUT_MS.to_be_bytes());
    let answer = request(broker, DELETE_TOPICS, &body).await;
    // The error is the last thing in it.
    let code = i16::from_be_bytes([answer[answer.len() - 2], answer[answer.len() - 1]]);
    assert!(matches!(code, 0 | UNKNOWN_TOPIC), "{answer:?}");
    code == 0
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    Produce,
    Fetch,
}

/// Clients of this id may move so many bytes a second from now on; `None` lifts the quota.
///
/// # Panics
/// When Kafka cannot be asked or refuses.
pub async fn set_quota(broker: &str, client_id: &str, quota: Quota, bytes_per_second: Option<f64>) {
    let name = match quota {
        Quota::Produce => "producer_byte_rate",
        Quota::Fetch => "consumer_byte_rate",
    };
    // One entry, of one entity, with one operation.
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.extend(1_i32.to_be_bytes());
    put_text(&mut body, "client-id");
    put_text(&mut body, client_id);
    body.extend(1_i32.to_be_bytes());
    put_text(&mut body, name);
    body.extend(bytes_per_second.unwrap_or_default().to_be_bytes());
    body.push(u8::from(bytes_per_second.is_none()));
    // Not only to be checked.
    body.push(0);
    let answer = request(broker, ALTER_CLIENT_QUOTAS, &body).await;
    // Behind the request's number, the throttle's time and the number of entries.
    assert_eq!(answer[12..14], [0, 0], "{answer:?}");
}

/// Appends a text as the protocol writes it, its length in front.
///
/// # Panics
/// When it is longer than 32,767 bytes.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("a short text");
    out.extend(length.to_be_bytes());
    out.extend(text.as_bytes());
}

/// The broker's answer to a request of this kind and version, without its length.
///
/// # Panics
/// When Kafka does not answer.
pub async fn request(broker: &str, (kind, version): (i16, i16), body: &[u8]) -> Vec<u8> {
    let mut message = [kind.to_be_bytes(), version.to_be_bytes()].concat();
    // A number that comes back, and no name of the client.
    message.extend(1_i32.to_be_bytes());
    message.extend((-1_i16).to_be_bytes());
    message.extend(body);
    let exchange = async {
        let mut broker = TcpStream::connect(broker).await?;
        let length = u32::try_from(message.len()).map_err(std::io::Error::other)?;
        broker.write_u32(length).await?;
        broker.write_all(&message).await?;
        let length = broker.read_u32().await?;
        let mut answer = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
        broker.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    exchange.await.expect("Kafka answers")
}
