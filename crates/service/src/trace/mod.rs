//! Spans of the process's work, for a collector of traces, and the trace that work belongs to.
//!
//! Without a collector a [`Tracer`] is off: asking it for a span is one look at an `Option`. With one,
//! spans are queued and sent beside the work, which never waits for them. How they are sent is in
//! [`sender`]; OpenTelemetry's own types stay in this module.

mod collector;
mod export;
mod parent;
mod sender;
pub mod settings;

use std::borrow::Cow;
use std::time::SystemTime;

use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub(crate) use export::{Exporter, SpanCounts};
pub use opentelemetry::Value;
pub use parent::{InvalidTraceParent, TRACEPARENT, TraceParent};
pub use settings::TraceSettings;

/// Where work notes its spans. Clones note them in the same place; [`Tracer::default`] is off.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<SdkTracer>);

/// What a span's work is to the other side of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Sends a message.
    Producer,
    /// Processes a message.
    Consumer,
}

/// A piece of work that is being traced. It ends when it is dropped.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Tracer {
    /// A tracer of the process `name`, and what sends its spans; off when no collector is set.
    pub(crate) fn new(
        name: &'static str,
        settings: &TraceSettings,
        counts: &SpanCounts,
    ) -> (Self, Option<Exporter>) {
        let Some(collector) = &settings.collector else {
            return (Self::default(), None);
        };
        let service_name = settings.service_name.clone();
        let resource = Resource::builder_empty()
            .with_service_name(service_name.unwrap_or_else(|| name.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let (queue, exporter) = export::new(collector, &resource, counts);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(settings.sampler())
            .with_span_processor(queue)
            .build();
        (Self(Some(provider.tracer(name))), Some(exporter))
    }

    /// Whether spans go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span that started at `started`, below `parent` or as the first of a trace. `None`
    /// when the tracer is off. A span that is not sampled is a span all the same: its place in the
    /// trace is what the next process needs.
    pub fn begin(
        &self,
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        parent: Option<TraceParent>,
        started: SystemTime,
    ) -> Option<Span> {
        let tracer = self.0.as_ref()?;
        let kind = match kind {
            Kind::Server => SpanKind::Server,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        };
        let above = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(span_context(parent))
        });
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_start_time(started);
        Some(Span(tracer.build_with_context(builder, &above)))
    }
}

fn span_context(parent: TraceParent) -> SpanContext {
    let flags = if parent.is_sampled() {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    SpanContext::new(
        TraceId::from(parent.trace),
        SpanId::from(parent.span),
        flags,
        true,
        TraceState::NONE,
    )
}

impl Span {
    /// This span as the parent of what follows from it.
    pub fn trace_parent(&self) -> TraceParent {
        use opentelemetry::trace::Span as _;
        let context = self.0.span_context();
        TraceParent {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        }
    }

    /// Whether it will be sent: what is set on another one is lost.
    pub fn is_sampled(&self) -> bool {
        use opentelemetry::trace::Span as _;
        self.0.is_recording()
    }

    /// Gives it another name.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        use opentelemetry::trace::Span as _;
        self.0.update_name(name);
    }

    /// Notes an attribute, named as OpenTelemetry's conventions have it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        use opentelemetry::trace::Span as _;
        self.0.set_attribute(KeyValue::new(name, value));
    }

    /// Marks its work as failed.
    pub fn fail(&mut self) {
        use opentelemetry::trace::Span as _;
        self.0.set_status(Status::error(""));
    }
}

#[cfg(test)]
mod tests;
