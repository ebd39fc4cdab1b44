//! The API over HTTP: which routes there are and how they are served. It parses requests into
//! values of the domain and writes answers; it never talks to Postgres itself.

mod body;
mod connections;
mod head_limits;
mod idempotency;
mod limits;
mod observe;
mod openapi;
mod orders;
mod page;
mod place_order;
mod problem;
mod refusals;
mod slow_clients;
mod trace;
mod views;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::guard::{Any, Get, Head};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, HttpServer, Resource, Route};
use service::{CancellationToken, ListenError, Tracer, listen};

use crate::metrics::Metrics;
use crate::store::Store;
use connections::Connections;
use problem::Problem;

/// Time a client has to send a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(3);
/// Time a connection may be idle between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time a client has to take an answer in when its connection is being closed.
const DISCONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Seconds that requests under way have to finish on stop: more than any takes.
const DRAIN_SECONDS: u64 = 7;

/// What the routes share.
struct Shared {
    store: Store,
    metrics: Metrics,
    tracer: Tracer,
}

/// An open port that does not serve yet.
pub(crate) struct HttpApi {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpApi {
    /// Opens the port. Connections queue until [`HttpApi::serve`].
    ///
    /// # Errors
    /// The port is taken or may not be opened.
    pub(crate) fn bind(port: u16) -> Result<Self, ListenError> {
        let listener = listen("PORT", port)?;
        let address = listener
            .local_addr()
            .map_err(|source| ListenError::Refused {
                setting: "PORT",
                port,
                source,
            })?;
        Ok(Self { listener, address })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled and the requests under way are answered.
    ///
    /// # Errors
    /// The system refuses the threads or the socket.
    pub(crate) async fn serve(
        self,
        store: Store,
        metrics: Metrics,
        tracer: Tracer,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let connections = Connections::affordable(store.pool().status().max_size);
        tracing::info!(connections = connections.total(), "serving");
        let shared = Data::new(Shared {
            store,
            metrics,
            tracer,
        });
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .wrap(from_fn(head_limits::limit_head))
                // The last is the outermost: it sees every answer.
                .wrap(from_fn(observe::observe))
                .configure(routes)
        })
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_WITHIN)
        .client_disconnect_timeout(DISCONNECT_WITHIN)
        // A client that closes its end has gone: what it asked for is given up while it still waits.
        .h1_allow_half_closed(false)
        .workers(connections.workers)
        .max_connections(connections.per_worker)
        .on_connect(slow_clients::watch)
        .shutdown_timeout(DRAIN_SECONDS)
        .disable_signals()
        .listen(self.listener)?
        .run();
        let handle = server.handle();
        let mut server = tokio::spawn(server);
        tokio::select! {
            () = stop.cancelled() => handle.stop(true).await,
            ended = &mut server => return ended?,
        }
        server.await?
    }
}

fn routes(config: &mut ServiceConfig) {
    config
        .service(
            web::resource("/orders")
                .route(web::post().to(orders::place))
                .route(get().to(orders::list))
                .default_service(web::to(async || only("GET, HEAD, POST"))),
        )
        .service(
            web::resource("/orders/{id}")
                .route(get().to(orders::show))
                .default_service(web::to(async || only("GET, HEAD"))),
        )
        .service(
            web::resource("/orders/{id}/cancel")
                .route(web::post().to(orders::cancel))
                .default_service(web::to(async || only("POST"))),
        )
        .service(
            web::resource("/orders/{id}/journey")
                .route(get().to(orders::journey))
                .default_service(web::to(async || only("GET, HEAD"))),
        )
        .service(document("/openapi.json").route(get().to(openapi::json)))
        .service(document("/docs").route(get().to(openapi::page)))
        .default_service(web::to(async || Err::<&str, _>(Problem::NotFound)));
}

fn document(path: &str) -> Resource {
    web::resource(path).default_service(web::to(async || only("GET, HEAD")))
}

/// GET, and HEAD, which is the same without the body.
fn get() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

fn only(allow: &'static str) -> Result<&'static str, Problem> {
    Err(Problem::MethodNotAllowed { allow })
}
