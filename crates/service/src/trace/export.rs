//! Sends finished spans to the collector, by `opentelemetry-otlp`.
//!
//! Work only queues them. The queue is bounded, each request has a deadline, and what cannot be
//! sent is dropped, counted and said so once in a while: no trace is worth the work it tells of.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::sender::Sender;
use crate::LogThrottle;
use crate::metrics::Registrar;

/// Spans that wait at most; some kB of memory each at worst.
const QUEUE_SPANS: usize = 4_096;
/// Spans in a request.
const BATCH_SPANS: usize = 512;
/// How long the first span of a request waits for others.
const LINGER: Duration = Duration::from_millis(500);

/// What became of the spans of a process. Clones count into the same metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanCounts {
    spans_exported: Counter,
    spans_dropped: Counter,
}

impl SpanCounts {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let mut to = Registrar::new(registry);
        Self {
            spans_exported: to.add("spans_exported", "Spans that the collector accepted"),
            spans_dropped: to.add(
                "spans_dropped",
                "Spans dropped: the collector was away, too slow, or refused them",
            ),
        }
    }
}

/// The way in: takes finished spans and never waits.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: SpanCounts,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // Full, or the process is at its end.
        if self.spans.try_send(span).is_err() {
            self.counts.spans_dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// The exporter is ended by the process, not by the last span.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The way out, not running yet.
#[derive(Debug)]
pub(crate) struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    counts: SpanCounts,
    resource: Resource,
    collector: Collector,
    finish: CancellationToken,
}

pub(super) fn new(
    collector: &Collector,
    resource: &Resource,
    counts: &SpanCounts,
) -> (Queue, Exporter) {
    let (sender, spans) = mpsc::channel(QUEUE_SPANS);
    let queue = Queue {
        spans: sender,
        counts: counts.clone(),
    };
    let exporter = Exporter {
        spans,
        counts: counts.clone(),
        resource: resource.clone(),
        collector: collector.clone(),
        finish: CancellationToken::new(),
    };
    (queue, exporter)
}

impl Exporter {
    /// Starts to send. Dropping the result ends it at once.
    pub(crate) fn start(self) -> Exporting {
        let finish = self.finish.clone();
        let mut task = JoinSet::new();
        task.spawn(self.run());
        Exporting { finish, task }
    }

    async fn run(mut self) {
        let mut delivery = Delivery {
            sender: Sender::new(&self.collector, &self.resource),
            counts: self.counts.clone(),
            endpoint: self.collector.endpoint.as_str().to_owned(),
            trouble: LogThrottle::default(),
        };
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        while self.collect(&mut batch).await {
            delivery.deliver(std::mem::take(&mut batch)).await;
        }
    }

    /// Waits for spans, and a little for more of them; false when the end has come and none is left.
    async fn collect(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let finish = self.finish.clone();
        let first = self.spans.recv_many(batch, BATCH_SPANS);
        finish.run_until_cancelled(first).await;
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        while (1..BATCH_SPANS).contains(&batch.len()) {
            let room = BATCH_SPANS - batch.len();
            tokio::select! {
                more = self.spans.recv_many(batch, room) => if more == 0 { break },
                () = &mut linger => break,
                () = finish.cancelled() => break,
            }
        }
        while batch.len() < BATCH_SPANS
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
        !batch.is_empty()
    }
}

/// Counts what became of each batch, and tells the log when it is bad.
#[derive(Debug)]
struct Delivery {
    sender: Sender,
    counts: SpanCounts,
    endpoint: String,
    trouble: LogThrottle,
}

impl Delivery {
    /// Sends a batch until the collector accepts it, or drops it.
    async fn deliver(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        match self.sender.send(batch).await {
            Ok(rejected) => {
                let rejected = rejected.min(spans);
                self.counts.spans_dropped.inc_by(rejected);
                self.counts.spans_exported.inc_by(spans - rejected);
                self.recovered(rejected);
            }
            Err(reason) => {
                self.counts.spans_dropped.inc_by(spans);
                self.complain(&reason);
            }
        }
    }

    fn complain(&mut self, reason: &str) {
        if self.trouble.is_due(Instant::now()) {
            let dropped = self.counts.spans_dropped.get();
            tracing::warn!(
                collector = self.endpoint,
                reason,
                dropped,
                "cannot send spans; those that wait too long are dropped"
            );
        }
    }

    fn recovered(&mut self, rejected: u64) {
        if rejected > 0 {
            self.complain("the collector rejected spans");
        } else if self.trouble.end() {
            tracing::info!(
                dropped = self.counts.spans_dropped.get(),
                "sending spans again"
            );
        }
    }
}

/// The way out at work.
#[derive(Debug)]
pub(crate) struct Exporting {
    finish: CancellationToken,
    task: JoinSet<()>,
}

impl Exporting {
    /// Sends what is queued, for at most `limit`, and ends.
    pub(crate) async fn finish(mut self, limit: Duration) {
        self.finish.cancel();
        let ended = tokio::time::timeout(limit, self.task.join_next()).await;
        if ended.is_err() {
            let seconds = limit.as_secs_f64();
            tracing::warn!(
                seconds,
                "the last spans are lost: the collector did not accept them in time"
            );
        }
    }
}
