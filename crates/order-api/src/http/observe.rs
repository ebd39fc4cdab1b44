//! Around every request, whatever its answer: its id and trace, a line in the log, and the counters.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage};

use super::Shared;
use super::trace::{REQUEST_ID, RequestContext};

/// Route of the paths that lead nowhere: there is no end to them.
const UNMATCHED: &str = "unmatched";

pub(super) async fn observe(
    shared: Data<Shared>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let received = Instant::now();
    let method = bounded(request.method());
    let context = RequestContext::of(request.headers());
    request.extensions_mut().insert(context.clone());
    let mut response = next.call(request).await?;
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(REQUEST_ID), id);
    }
    let (took, status) = (received.elapsed(), response.status().as_u16());
    let route = response.request().match_pattern();
    let route = route.unwrap_or_else(|| UNMATCHED.to_owned());
    tracing::info!(
        method,
        route,
        path = response.request().path(),
        status,
        seconds = took.as_secs_f64(),
        request_id = context.request_id,
        trace_id = context.trace.trace_id(),
        "answered"
    );
    shared.metrics.answered(method, route, status, took);
    Ok(response)
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
