//! Around every request, whatever its answer: its id and its span, a line in the log, and the counters.

use std::time::{Duration, Instant, SystemTime};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage};
use service::trace::{Kind, Span, TraceParent};
use tracing::Instrument;

use super::Shared;
use super::limits::MAX_URI;
use super::slow_clients;
use super::trace::{REQUEST_ID, RequestContext, parent};

/// Route of the paths that lead nowhere: there is no end to them.
const UNMATCHED: &str = "unmatched";

pub(super) async fn observe(
    shared: Data<Shared>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let received = Instant::now();
    let _under_way = slow_clients::begin(&request);
    let method = bounded(request.method());
    let above = parent(request.headers());
    let now = SystemTime::now();
    let span = shared.tracer.begin(Kind::Server, method, above, now);
    let place = span.as_ref().map(Span::trace_parent);
    let place = place.unwrap_or_else(|| TraceParent::below(above));
    let context = RequestContext::new(request.headers(), place);
    let trace_id = context.trace.trace_id();
    request.extensions_mut().insert(context.clone());
    let line = Line {
        method,
        path: shown(request.path()).to_owned(),
        received,
        request_id: context.request_id.clone(),
        trace_id: trace_id.clone(),
        answered: false,
    };
    // What is logged on the way names the trace, also where only errors are logged.
    let on_the_way = tracing::error_span!("request", trace_id);
    let mut response = next.call(request).instrument(on_the_way).await?;
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(REQUEST_ID), id);
    }
    let (took, status) = (received.elapsed(), response.status().as_u16());
    let route = response.request().match_pattern();
    let route = route.unwrap_or_else(|| UNMATCHED.to_owned());
    line.answered(&route, status, took);
    if let Some(span) = span {
        end(span, method, &route, &response);
    }
    shared.metrics.answered(method, route, status, took);
    Ok(response)
}

/// The line in the log that each request leaves, also one whose client goes away before it is
/// answered: its future is dropped.
struct Line {
    method: &'static str,
    path: String,
    received: Instant,
    request_id: String,
    trace_id: String,
    answered: bool,
}

impl Line {
    fn answered(mut self, route: &str, status: u16, took: Duration) {
        self.answered = true;
        tracing::info!(
            method = self.method,
            route,
            path = self.path,
            status,
            seconds = took.as_secs_f64(),
            request_id = self.request_id,
            trace_id = self.trace_id,
            "answered"
        );
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.answered {
            tracing::info!(
                method = self.method,
                path = self.path,
                seconds = self.received.elapsed().as_secs_f64(),
                request_id = self.request_id,
                trace_id = self.trace_id,
                "client disconnected"
            );
        }
    }
}

/// What a log line can bear of a path: one that is too long is refused, and logged all the same.
fn shown(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_URI)]
}

/// Names and attributes as OpenTelemetry's conventions for HTTP have them.
fn end(mut span: Span, method: &'static str, route: &str, response: &ServiceResponse<impl Sized>) {
    let status = response.status();
    span.rename(format!("{method} {route}"));
    span.set("http.request.method", method);
    span.set("http.route", route.to_owned());
    span.set("url.path", shown(response.request().path()).to_owned());
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail();
    }
}

/// A client may invent methods.
fn bounded(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
