//! Counts every request that is answered, whatever the answer.

use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::Data;

use super::Shared;

/// Route of the paths that lead nowhere: there is no end to them.
const UNMATCHED: &str = "unmatched";

pub(super) async fn observe(
    shared: Data<Shared>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let received = Instant::now();
    let method = bounded(request.method());
    let response = next.call(request).await?;
    let route = response.request().match_pattern();
    shared.metrics.answered(
        method,
        route.unwrap_or_else(|| UNMATCHED.to_owned()),
        response.status().as_u16(),
        received.elapsed(),
    );
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
