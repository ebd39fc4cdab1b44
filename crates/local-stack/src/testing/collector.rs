//! A collector of traces: a small HTTP server that takes OTLP, and remembers which spans came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How a [`Collector`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// It takes every span.
    Taking,
    /// It takes connections and requests, and answers none.
    Mute,
    /// It answers with this status, such as `503 Service Unavailable`.
    Refusing(&'static str),
}

/// A span as it arrived, ids in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentSpan {
    /// `service.name` of the process it came from.
    pub service: String,
    pub name: String,
    /// `Server`, `Producer`, `Consumer` and so on.
    pub kind: String,
    pub trace_id: String,
    pub span_id: String,
    /// Empty when it is the first of its trace.
    pub parent_span_id: String,
    /// All values as text.
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    /// Nanoseconds between its begin and its end.
    pub nanoseconds: u64,
}

/// See the module. Ends with this value.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    manners: Mutex<Manners>,
    spans: Mutex<Vec<SentSpan>>,
    requests: AtomicUsize,
}

impl Collector {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            manners: Mutex::new(manners),
            spans: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        let for_connections = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, Arc::clone(&for_connections)));
            }
        });
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How it behaves from now on.
    pub fn set(&self, manners: Manners) {
        *lock(&self.shared.manners) = manners;
    }

    /// Requests that came, whatever was answered.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The spans that came and were not refused, in order; more than once when they were sent again.
    pub fn spans(&self) -> Vec<SentSpan> {
        lock(&self.shared.spans).clone()
    }

    /// Those of one trace.
    pub fn trace(&self, trace_id: &str) -> Vec<SentSpan> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == trace_id);
        spans
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests until the client goes or breaks off.
async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut client = BufStream::new(client);
    while let Some((path, body)) = request(&mut client).await {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let manners = *lock(&shared.manners);
        let status = match manners {
            Manners::Refusing(status) => status,
            _ if path != "/v1/traces" => "404 Not Found",
            Manners::Taking | Manners::Mute => {
                match ExportTraceServiceRequest::decode(body.as_slice()) {
                    Ok(sent) => {
                        lock(&shared.spans).extend(spans(sent));
                        "200 OK"
                    }
                    Err(_) => "400 Bad Request",
                }
            }
        };
        if manners == Manners::Mute {
            return std::future::pending().await;
        }
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        if client.write_all(answer.as_bytes()).await.is_err() || client.flush().await.is_err() {
            return;
        }
    }
}

/// The path and the body of a request that says how long it is.
async fn request(client: &mut BufStream<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut path = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        client.read_line(&mut line).await.ok()?;
        let line = line.strip_suffix("\r\n")?;
        if path.is_none() {
            path = Some(line.split(' ').nth(1)?.to_owned());
        } else if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        } else {
            break;
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).await.ok()?;
    Some((path?, body))
}

fn spans(sent: ExportTraceServiceRequest) -> impl Iterator<Item = SentSpan> {
    sent.resource_spans.into_iter().flat_map(|of_resource| {
        let resource = of_resource.resource.unwrap_or_default();
        let service = attributes(resource.attributes)
            .remove("service.name")
            .unwrap_or_default();
        let spans = of_resource.scope_spans.into_iter().flat_map(|s| s.spans);
        spans.map(move |span| SentSpan {
            service: service.clone(),
            kind: format!("{:?}", span.kind()),
            name: span.name,
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_span_id: hex(&span.parent_span_id),
            attributes: attributes(span.attributes),
            failed: span.status.is_some_and(|status| status.code == 2),
            nanoseconds: span.end_time_unix_nano - span.start_time_unix_nano,
        })
    })
}

fn attributes(of: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    of.into_iter()
        .map(|attribute| {
            (
                attribute.key,
                attribute.value.map_or_else(String::new, text),
            )
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
