//! Events whose record no broker would even read: they are dead without having been sent.

use domain::OutboxEvent;
use messaging::envelope;
use tracing::error;

/// A broker closes the connection on a request above its `socket.request.max.bytes` (100 MiB unless
/// configured), which looks like an outage. No topic takes a record that comes near it. What has
/// more bytes in the outbox is not even read: Postgres cannot send a row of 1 GB.
pub(crate) const LARGEST_RECORD_BYTES: u32 = 64 * 1024 * 1024;

pub(crate) fn is_oversized(event: &OutboxEvent) -> bool {
    envelope::encoded_size(event) > LARGEST_RECORD_BYTES as usize
}

/// What is said of an event of `bytes` bytes.
pub(crate) fn reason(bytes: impl std::fmt::Display) -> String {
    format!("the event has {bytes} bytes, more than {LARGEST_RECORD_BYTES}")
}

/// Logs that one is dead and was never read.
pub(crate) fn tell(topic: &str, key: &str, id: i64, error: &str) {
    error!(
        topic,
        key, id, error, "dead letter: the event can never be produced"
    );
}
