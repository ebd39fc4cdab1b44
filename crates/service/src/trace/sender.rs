//! Sends one batch of spans at a time. `opentelemetry-otlp` encodes, sends and retries; this module
//! sets deadlines, TLS and headers, and notes the collector's answer.
//!
//! That crate also reads environment variables. The headers of the settings replace those it adds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, USER_AGENT};
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol as Otlp, RetryPolicy, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prost::Message;
use rustls::ClientConfig;
use rustls::crypto::ring;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::collector::{Collector, Headers, Protocol, Roots};
use crate::Secret;
use crate::retry::bounds;
use crate::tasks::describe;

/// Of one request, from connecting to the end of the answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a batch is tried again; spans queue up behind it.
const RETRY_FOR: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(super) struct Sender {
    exporter: SpanExporter,
    said: Said,
}

impl Sender {
    /// Needs a runtime.
    pub(super) fn new(collector: &Collector, resource: &Resource) -> Self {
        let said = Said::default();
        let exporter = match collector.protocol {
            Protocol::Http => over_http(collector, &said),
            Protocol::Grpc => over_grpc(collector),
        };
        let mut exporter = exporter.expect("all it needs was checked with the settings");
        exporter.set_resource(resource);
        Self { exporter, said }
    }

    /// Sends a batch until the collector accepts it. Returns how many of its spans were rejected, or why
    /// the batch was dropped.
    pub(super) async fn send(&self, batch: Vec<SpanData>) -> Result<u64, String> {
        self.said.take();
        let limit = RETRY_FOR + REQUEST_DEADLINE;
        let sent = tokio::time::timeout(limit, self.exporter.export(batch)).await;
        let said = self.said.take();
        match sent {
            Ok(Ok(())) => Ok(said.rejected),
            Ok(Err(error)) => Err(said.failure.unwrap_or_else(|| error.to_string())),
            Err(_) => Err(said.failure.unwrap_or_else(|| "no answer".to_owned())),
        }
    }
}

fn retry_policy() -> RetryPolicy {
    RetryPolicy::recommended()
        .with_max_retries(usize::MAX)
        .with_initial_delay(bounds::BESIDE.first)
        .with_max_delay(bounds::BESIDE.longest)
        .with_max_jitter(bounds::BESIDE.first)
}

fn over_http(collector: &Collector, said: &Said) -> Result<SpanExporter, ExporterBuildError> {
    let client = Client {
        inner: client(&collector.roots),
        headers: collector.headers.clone(),
        said: said.clone(),
    };
    SpanExporter::builder()
        .with_http()
        .with_protocol(Otlp::HttpBinary)
        .with_endpoint(collector.endpoint.traces())
        .with_timeout(RETRY_FOR)
        .with_retry_policy(retry_policy())
        .with_http_client(client)
        .build()
}

fn client(roots: &Roots) -> Box<dyn HttpClient> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_root_certificates(Arc::clone(roots.store()))
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    Box::new(HyperClient::new(connector, REQUEST_DEADLINE, None))
}

fn over_grpc(collector: &Collector) -> Result<SpanExporter, ExporterBuildError> {
    let headers = collector.headers.expose().map().clone();
    let metadata = MetadataMap::from_headers(headers);
    SpanExporter::builder()
        .with_tonic()
        .with_timeout(RETRY_FOR)
        .with_retry_policy(retry_policy())
        .with_channel(channel(collector))
        .with_interceptor(move |mut request: tonic::Request<()>| {
            *request.metadata_mut() = metadata.clone();
            Ok(request)
        })
        .build()
}

fn channel(collector: &Collector) -> Channel {
    let mut endpoint = Endpoint::from_shared(collector.endpoint.as_str().to_owned())
        .expect("a URL with a host")
        .connect_timeout(REQUEST_DEADLINE)
        .timeout(REQUEST_DEADLINE);
    if collector.endpoint.is_tls() {
        let anchors = collector.roots.store().roots.clone();
        let tls = ClientTlsConfig::new().trust_anchors(anchors);
        endpoint = endpoint.tls_config(tls).expect("ring knows all of it");
    }
    endpoint.connect_lazy()
}

/// The latest answer of the collector.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<Words>>);

#[derive(Debug, Default)]
struct Words {
    rejected: u64,
    /// Why the latest attempt failed.
    failure: Option<String>,
}

impl Said {
    fn note(&self, words: Words) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    fn take(&self) -> Words {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends requests with the headers of the settings, and notes the answers.
#[derive(Debug)]
struct Client {
    inner: Box<dyn HttpClient>,
    headers: Secret<Headers>,
    said: Said,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut headers = self.headers.expose().map().clone();
        for name in [CONTENT_TYPE, USER_AGENT] {
            if let Some(value) = request.headers_mut().remove(&name) {
                headers.entry(name).or_insert(value);
            }
        }
        *request.headers_mut() = headers;
        let answer = self.inner.send_bytes(request).await;
        self.said.note(match &answer {
            Ok(answer) if answer.status().is_success() => Words {
                rejected: rejected(answer.body()),
                failure: None,
            },
            Ok(answer) => Words {
                rejected: 0,
                failure: Some(format!("the collector answered {}", answer.status())),
            },
            Err(error) => Words {
                rejected: 0,
                failure: Some(describe(&**error)),
            },
        });
        answer
    }
}

/// The rejected spans by an answer; none if it cannot be decoded.
fn rejected(answer: &[u8]) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
    u64::try_from(rejected).unwrap_or_default()
}
