//! The consumer's part in the traces of events: a span for each whose effect happened, below the span
//! that committed it, and the trace's id for log lines.

use std::time::{Duration, SystemTime};

use messaging::IncomingRecord;
use service::TraceParent;
use service::trace::{Kind, Span, TRACEPARENT, Tracer};
use storage::inbox::Stream;

use crate::apply::decode::Decoded;

/// The record at an offset of a batch, which is in the order of offsets.
fn at(batch: &[Decoded], offset: i64) -> Option<&Decoded> {
    let place = batch.binary_search_by_key(&offset, |decoded| decoded.record.offset);
    Some(&batch[place.ok()?])
}

/// Where the record's header says it belongs; a malformed one says nothing.
fn parent(record: &IncomingRecord) -> Option<TraceParent> {
    TraceParent::from_header(record.headers.get(TRACEPARENT)?)
}

/// The trace that the record at this offset belongs to.
pub(crate) fn trace_id(batch: &[Decoded], offset: i64) -> Option<String> {
    parent(&at(batch, offset)?.record).map(TraceParent::trace_id)
}

/// Notes that the effects of the events at `offsets` happened, in a transaction that took `took`.
pub(crate) fn processed(
    tracer: &Tracer,
    stream: &Stream,
    batch: &[Decoded],
    offsets: &[i64],
    took: Duration,
) {
    if !tracer.is_on() {
        return;
    }
    let started = SystemTime::now() - took;
    for decoded in offsets.iter().filter_map(|offset| at(batch, *offset)) {
        let record = &decoded.record;
        let Some(parent) = parent(record) else {
            continue;
        };
        let name = format!("process {}", stream.topic);
        let span = tracer.begin(Kind::Consumer, name, Some(parent), started);
        let Some(mut span) = span.filter(Span::is_sampled) else {
            continue;
        };
        span.set("messaging.system", "kafka");
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", stream.topic.clone());
        let partition = stream.partition.to_string();
        span.set("messaging.destination.partition.id", partition);
        span.set("messaging.consumer.group.name", stream.group.clone());
        span.set("messaging.kafka.offset", record.offset);
        if let Some(event_id) = decoded.event_id {
            span.set("messaging.message.id", event_id.to_string());
        }
    }
}
