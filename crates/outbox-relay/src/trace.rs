//! The relay's part in the traces of events: a span for each that Kafka took, below the span that
//! committed it. The event itself goes out as it was committed.

use std::time::SystemTime;

use domain::OutboxEvent;
use service::TraceParent;
use service::trace::{Kind, Span, TRACEPARENT, Tracer};
use tokio::time::Instant;

/// The trace an event belongs to, for log lines.
pub(crate) fn trace_id(event: &OutboxEvent) -> Option<String> {
    parent(event).map(TraceParent::trace_id)
}

fn parent(event: &OutboxEvent) -> Option<TraceParent> {
    event.headers.get(TRACEPARENT)?.parse().ok()
}

/// Notes that Kafka took `events`, the first at `first_offset`. `begun` is when it was first tried.
/// Only for a tracer that is on.
pub(crate) fn sent<'a>(
    tracer: &Tracer,
    partition: i32,
    begun: Instant,
    first_offset: i64,
    events: impl Iterator<Item = &'a OutboxEvent>,
) {
    let started = SystemTime::now() - begun.elapsed();
    for (offset, event) in (first_offset..).zip(events) {
        let Some(parent) = parent(event) else {
            continue;
        };
        let span = tracer.begin(Kind::Producer, "send", Some(parent), started);
        let Some(mut span) = span.filter(Span::is_sampled) else {
            continue;
        };
        span.rename(format!("send {}", event.topic));
        span.set("messaging.system", "kafka");
        span.set("messaging.operation.type", "send");
        span.set("messaging.destination.name", event.topic.clone());
        span.set("messaging.destination.partition.id", partition.to_string());
        span.set("messaging.kafka.offset", offset);
        span.set("messaging.message.id", event.event_id.to_string());
    }
}
