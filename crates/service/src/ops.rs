//! What an operator, a scheduler and a scraper ask a process over HTTP: `/livez`, `/readyz`,
//! `/metrics`. Served by a thread of its own, so that it answers when the rest is stuck. It never
//! takes orders and never changes anything.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, HttpServer, web};
use prometheus_client::registry::Registry;

use crate::heartbeat::Heartbeat;
use crate::readiness::Status;
use crate::{ListenError, Reader, Readiness, Service, listen};

/// A heartbeat older than this means that the runtime does not turn.
pub const MAX_HEARTBEAT_AGE: Duration = Duration::from_secs(5);

/// Time a client has for its request, and an idle connection has to live.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Scrapers and probes are few; anything beyond is a mistake that must not use up file handles.
const MAX_CONNECTIONS: usize = 64;

/// Where the endpoints are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpsSettings {
    /// `OPS_PORT`; 0 lets the system choose.
    pub port: u16,
}

impl OpsSettings {
    /// Reads `OPS_PORT`; the default is the service's own.
    pub fn read(reader: &mut Reader<'_>, service: Service) -> OpsSettings {
        OpsSettings {
            port: reader.value_of("OPS_PORT", service),
        }
    }
}

/// What the endpoints look at.
#[derive(Debug, Clone)]
pub struct OpsState {
    /// Beaten by the main runtime.
    pub heartbeat: Heartbeat,
    /// Age at which `/livez` turns 503; [`MAX_HEARTBEAT_AGE`] outside tests.
    pub max_heartbeat_age: Duration,
    /// Answers `/readyz`.
    pub readiness: Readiness,
    /// Answers `/metrics`.
    pub registry: Arc<Registry>,
}

/// An open port that does not serve yet.
#[derive(Debug)]
pub struct Ops {
    listener: TcpListener,
    address: SocketAddr,
}

impl Ops {
    /// Opens the port. Connections queue until [`Ops::serve`].
    ///
    /// # Errors
    /// The port is taken or may not be opened.
    pub fn bind(settings: OpsSettings) -> Result<Ops, ListenError> {
        let listener = listen("OPS_PORT", settings.port)?;
        let address = listener
            .local_addr()
            .map_err(|source| ListenError::Refused {
                setting: "OPS_PORT",
                port: settings.port,
                source,
            })?;
        Ok(Ops { listener, address })
    }

    /// The address with the port that was opened, also when the system chose it.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Starts the serving thread; await the server to supervise it, stop it with its handle. Must
    /// be called on a tokio runtime.
    ///
    /// # Errors
    /// The system refuses the thread or the socket.
    pub fn serve(self, state: OpsState) -> io::Result<Server> {
        let state = web::Data::new(state);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .route("/livez", web::get().to(livez))
                .route("/readyz", web::get().to(readyz))
                .route("/metrics", web::get().to(metrics))
                .default_service(web::to(not_found))
        })
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .keep_alive(CLIENT_TIMEOUT)
        .client_request_timeout(CLIENT_TIMEOUT)
        .client_disconnect_timeout(Duration::from_secs(1))
        .shutdown_timeout(1)
        .disable_signals()
        .listen(self.listener)?;
        Ok(server.run())
    }
}

async fn livez(state: web::Data<OpsState>) -> HttpResponse {
    let age = state.heartbeat.age();
    if age > state.max_heartbeat_age {
        HttpResponse::ServiceUnavailable().body(format!(
            "the runtime has made no progress for {} s\n",
            age.as_secs()
        ))
    } else {
        HttpResponse::Ok().body("alive\n")
    }
}

async fn readyz(state: web::Data<OpsState>) -> HttpResponse {
    let report = state.readiness.report();
    let mut response = match report.status {
        Status::Ready => HttpResponse::Ok(),
        Status::NotReady => HttpResponse::ServiceUnavailable(),
    };
    response.json(report)
}

async fn metrics(state: web::Data<OpsState>) -> HttpResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        Ok(()) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            problem(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

async fn not_found() -> HttpResponse {
    problem(StatusCode::NOT_FOUND)
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("application/problem+json")
        .body(
            serde_json::json!({
                "type": "about:blank",
                "title": status.canonical_reason(),
                "status": status.as_u16(),
            })
            .to_string(),
        )
}
