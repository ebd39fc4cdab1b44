//! Sends finished spans to the collector: OTLP, protobuf over HTTP.
//!
//! Work only queues them. The queue is bounded, each request has a deadline, and what cannot be
//! sent is dropped, counted and said so once in a while: no trace is worth the work it tells of.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use prost::Message;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::settings::Collector;
use crate::metrics::Registrar;
use crate::retry::bounds;
use crate::tasks::describe;
use crate::{Backoff, LogThrottle};

/// Spans that wait at most; some kB of memory each at worst.
const QUEUE_SPANS: usize = 4_096;
/// Spans in a request.
const BATCH_SPANS: usize = 512;
/// How long the first span of a request waits for others.
const LINGER: Duration = Duration::from_millis(500);
/// Of one request, from connecting to the end of the answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a batch is tried again; spans queue up behind it.
const RETRY_FOR: Duration = Duration::from_secs(15);

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
    resource: ResourceAttributesWithSchema,
    client: Client,
    traces: Url,
    finish: CancellationToken,
    trouble: LogThrottle,
}

/// Why spans were not taken.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// The same request may be taken later.
    passing: bool,
}

pub(super) fn new(
    collector: &Collector,
    resource: &Resource,
    counts: &SpanCounts,
) -> (Queue, Exporter) {
    let (sender, spans) = mpsc::channel(QUEUE_SPANS);
    let client = Client::builder()
        .timeout(REQUEST_DEADLINE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client without TLS and proxies needs nothing that could be missing");
    let queue = Queue {
        spans: sender,
        counts: counts.clone(),
    };
    let exporter = Exporter {
        spans,
        counts: counts.clone(),
        resource: resource.into(),
        client,
        traces: collector.traces(),
        finish: CancellationToken::new(),
        trouble: LogThrottle::default(),
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
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        while self.collect(&mut batch).await {
            self.deliver(std::mem::take(&mut batch)).await;
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

    /// Sends a batch until the collector accepts it, or drops it.
    async fn deliver(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let body = request.encode_to_vec();
        let give_up = Instant::now() + RETRY_FOR;
        let mut backoff = Backoff::new(bounds::BESIDE);
        loop {
            let failure = match self.send(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(spans);
                    self.counts.spans_dropped.inc_by(rejected);
                    self.counts.spans_exported.inc_by(spans - rejected);
                    self.recovered(rejected);
                    return;
                }
                Err(failure) => failure,
            };
            let pause = backoff.next_delay();
            let again =
                failure.passing && !self.finish.is_cancelled() && Instant::now() + pause < give_up;
            if !again {
                self.counts.spans_dropped.inc_by(spans);
            }
            self.complain(&failure.reason);
            if !again {
                return;
            }
            self.finish
                .run_until_cancelled(tokio::time::sleep(pause))
                .await;
        }
    }

    /// One request; how many spans of it were rejected.
    async fn send(&self, body: Vec<u8>) -> Result<u64, Failure> {
        let request = self.client.post(self.traces.clone());
        let request = request.header(CONTENT_TYPE, "application/x-protobuf");
        let answer = request.body(body).send().await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure::of(status));
        }
        Ok(rejected(answer).await?)
    }

    fn complain(&mut self, reason: &str) {
        if self.trouble.is_due(Instant::now().into_std()) {
            let dropped = self.counts.spans_dropped.get();
            tracing::warn!(
                collector = %self.traces, reason, dropped,
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

impl Failure {
    /// What OTLP says of each status.
    fn of(status: StatusCode) -> Self {
        Self {
            reason: format!("the collector answered {status}"),
            passing: matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self {
            reason: describe(&error.without_url()),
            passing: true,
        }
    }
}

/// What an answer says of spans that were not taken. One that cannot be read says nothing.
async fn rejected(answer: Response) -> Result<u64, reqwest::Error> {
    let bytes = answer.bytes().await?;
    let answer = ExportTraceServiceResponse::decode(bytes).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
    Ok(u64::try_from(rejected).unwrap_or_default())
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
