//! Refuses requests whose head is larger than anything here needs, before anything looks at it.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError};

use super::limits::{MAX_HEADERS, MAX_URI};
use super::problem::Problem;

pub(super) async fn limit_head<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let uri = request.uri().path_and_query();
    let headers = request.headers().iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let problem = if uri.is_some_and(|uri| uri.as_str().len() > MAX_URI) {
        Problem::UriTooLong
    } else if headers > MAX_HEADERS {
        Problem::HeadersTooLarge
    } else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    Ok(request
        .into_response(problem.error_response())
        .map_into_right_body())
}
