//! A collector of traces: a small server that takes OTLP over HTTP and over gRPC, with TLS if need be,
//! and remembers which spans came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use h2::RecvStream;
use h2::server::SendResponse;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use prost::bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const TAKEN: &str = "200 OK";

/// How a [`Collector`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// It takes every span.
    Taking,
    /// It takes connections and requests, and answers none.
    Mute,
    /// It answers with this status, such as `503 Service Unavailable`.
    Refusing(&'static str),
    /// It takes every span, and says that it rejected this many.
    Rejecting(i64),
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
    authority: Option<String>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    manners: Mutex<Manners>,
    spans: Mutex<Vec<SentSpan>>,
    requests: AtomicUsize,
    distrusted: AtomicUsize,
    headers: Mutex<BTreeMap<String, String>>,
}

/// A request, whatever it came by.
struct Asked {
    path: String,
    headers: BTreeMap<String, String>,
    message: Vec<u8>,
}

impl Collector {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start(manners: Manners) -> Self {
        Self::listen(manners, None).await
    }

    /// The same with TLS, known by an authority of its own.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start_with_tls(manners: Manners) -> Self {
        Self::listen(manners, Some(tls())).await
    }

    async fn listen(manners: Manners, tls: Option<(TlsAcceptor, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (acceptor, authority) = tls.unzip();
        let shared = Arc::new(Shared {
            manners: Mutex::new(manners),
            spans: Mutex::default(),
            requests: AtomicUsize::new(0),
            distrusted: AtomicUsize::new(0),
            headers: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let for_connections = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (shared, acceptor) = (Arc::clone(&for_connections), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => serve(client, &shared).await,
                        Some(acceptor) => match acceptor.accept(client).await {
                            Ok(client) => serve(client, &shared).await,
                            Err(_) => {
                                shared.distrusted.fetch_add(1, Ordering::SeqCst);
                            }
                        },
                    }
                });
            }
        });
        Self {
            address,
            authority,
            shared,
            _tasks: tasks,
        }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`, with either protocol.
    pub fn endpoint(&self) -> String {
        let scheme = self.authority.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address)
    }

    /// The authority that vouches for it, in PEM.
    ///
    /// # Panics
    /// Without TLS it has none.
    pub fn authority(&self) -> &str {
        self.authority.as_deref().expect("started with TLS")
    }

    /// Connections that ended before TLS was agreed on.
    pub fn distrusted(&self) -> usize {
        self.shared.distrusted.load(Ordering::SeqCst)
    }

    /// A header of the latest request.
    pub fn header(&self, name: &str) -> Option<String> {
        lock(&self.shared.headers).get(name).cloned()
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

/// What an https collector needs, and its authority.
fn tls() -> (TlsAcceptor, String) {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let own = key();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&own, &authority))
        .expect("a certificate");
    let key = PrivateKeyDer::try_from(own.serialize_der()).expect("a key in DER");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a key and its certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

/// Answers requests until the client goes or breaks off.
async fn serve(client: impl AsyncRead + AsyncWrite + Unpin, shared: &Arc<Shared>) {
    let mut client = BufStream::new(client);
    match client.fill_buf().await {
        Ok(begin) if begin.starts_with(b"PRI ") => serve_grpc(client, shared).await,
        Ok(_) => serve_http(client, shared).await,
        Err(_) => {}
    }
}

async fn serve_http(mut client: BufStream<impl AsyncRead + AsyncWrite + Unpin>, shared: &Shared) {
    while let Some(asked) = request(&mut client).await {
        let (status, answer) = shared.answer(asked, "/v1/traces").await;
        let length = answer.len();
        let mut text =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        text.extend(answer);
        if client.write_all(&text).await.is_err() || client.flush().await.is_err() {
            return;
        }
    }
}

async fn serve_grpc(client: BufStream<impl AsyncRead + AsyncWrite + Unpin>, shared: &Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(client).await else {
        return;
    };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(call(request, respond, Arc::clone(shared)));
    }
}

/// One call of gRPC: a message with a prefix of five bytes, which say whether it is compressed and how
/// long it is, and the same back. `None` when the client broke off.
async fn call(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let mut sent = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        body.flow_control().release_capacity(part.len()).ok()?;
        sent.extend_from_slice(&part);
    }
    let headers = head.headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    });
    let asked = Asked {
        path: head.uri.path().to_owned(),
        headers: headers.collect(),
        message: sent.get(5..)?.to_vec(),
    };
    let method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let (status, answer) = shared.answer(asked, method).await;
    let head = http::Response::builder()
        .status(&status[..3])
        .header("content-type", "application/grpc")
        .body(())
        .ok()?;
    if status != TAKEN {
        respond.send_response(head, true).ok()?;
        return Some(());
    }
    let mut stream = respond.send_response(head, false).ok()?;
    let length = u32::try_from(answer.len()).ok()?;
    let message = [&[0], &length.to_be_bytes()[..], &answer].concat();
    stream.send_data(message.into(), false).ok()?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    stream.send_trailers(trailers).ok()
}

impl Shared {
    /// The status of an answer and its message; none ever when mute.
    async fn answer(&self, asked: Asked, path: &str) -> (&'static str, Vec<u8>) {
        *lock(&self.headers) = asked.headers;
        self.requests.fetch_add(1, Ordering::SeqCst);
        let manners = *lock(&self.manners);
        let rejected = match manners {
            Manners::Refusing(status) => return (status, Vec::new()),
            _ if asked.path != path => return ("404 Not Found", Vec::new()),
            Manners::Taking | Manners::Mute => None,
            Manners::Rejecting(rejected_spans) => Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: "too many".to_owned(),
            }),
        };
        let Ok(sent) = ExportTraceServiceRequest::decode(asked.message.as_slice()) else {
            return ("400 Bad Request", Vec::new());
        };
        lock(&self.spans).extend(spans(sent));
        if manners == Manners::Mute {
            return std::future::pending().await;
        }
        let answer = ExportTraceServiceResponse {
            partial_success: rejected,
        };
        (TAKEN, answer.encode_to_vec())
    }
}

/// A request that says how long it is.
async fn request(client: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> Option<Asked> {
    let mut path = None;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        client.read_line(&mut line).await.ok()?;
        let line = line.strip_suffix("\r\n")?;
        if path.is_none() {
            path = Some(line.split(' ').nth(1)?.to_owned());
        } else if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        } else {
            break;
        }
    }
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut message = vec![0; length.parse().ok()?];
    client.read_exact(&mut message).await.ok()?;
    Some(Asked {
        path: path?,
        headers,
        message,
    })
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
