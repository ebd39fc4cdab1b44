//! How operations can be refused, as the OpenAPI document says it. Each handler declares its own.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use actix_web::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};

use super::problem::{Kind, Problem};

/// The problems of an operation, beside those of every operation. Declared at its handler.
pub(super) trait Refusals {
    /// One of each kind; the values do not matter.
    fn problems() -> Vec<Problem>;
}

/// The responses of an operation with these problems.
pub(super) struct Refused<R>(PhantomData<R>);

impl<R: Refusals> IntoResponses for Refused<R> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut problems = anywhere();
        problems.extend(R::problems());
        let mut descriptions: BTreeMap<StatusCode, Vec<String>> = BTreeMap::new();
        for Kind {
            status,
            name,
            title,
        } in problems.iter().map(Problem::kind)
        {
            let description = format!("`/problems/{name}`: {title}");
            descriptions.entry(status).or_default().push(description);
        }
        let with_body = |(status, descriptions): (StatusCode, Vec<String>)| {
            let schema = Ref::from_schema_name("Problem");
            let response = ResponseBuilder::new()
                .description(descriptions.join("; "))
                .content("application/problem+json", Content::new(Some(schema)))
                .build();
            (status, response)
        };
        let mut responses: BTreeMap<StatusCode, Response> =
            descriptions.into_iter().map(with_body).collect();
        for (status, reason) in UNREADABLE {
            let without_body = format!("without a body: {reason}");
            responses
                .entry(status)
                .and_modify(|response| {
                    response.description = format!("{}; {without_body}", response.description);
                })
                .or_insert_with(|| ResponseBuilder::new().description(without_body).build());
        }
        let named = responses.into_iter();
        named
            .map(|(status, response)| (status.as_str().to_owned(), response.into()))
            .collect()
    }
}

/// What is answered without a body, before there is a request that anything here could see. The
/// limits of 431 are the server's own and above those of a problem.
const UNREADABLE: [(StatusCode, &str); 3] = [
    (StatusCode::BAD_REQUEST, "the head is not HTTP"),
    (
        StatusCode::REQUEST_TIMEOUT,
        "the head of a connection's first request did not arrive within 3 s",
    ),
    (
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "the head has more than 96 headers, or 128 KiB",
    ),
];

fn anywhere() -> Vec<Problem> {
    vec![
        Problem::UriTooLong,
        Problem::HeadersTooLarge,
        Problem::Internal,
        Problem::Busy,
        Problem::DatabaseUnavailable,
        Problem::SchemaIncomplete,
    ]
}
