//! The OpenAPI document, made from the handlers' own descriptions, and the page that shows it.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::orders;
use super::problem::{Body, Kind, Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Order API",
        description = "Places orders. An order is announced to the world if and only if it is stored.\n\n\
            `GET /openapi.json` is this document and `GET /docs` a page that shows it. Any other \
            path is refused with 404 `/problems/not-found`."
    ),
    paths(orders::place, orders::list, orders::show, orders::cancel, orders::journey),
    components(schemas(Body)),
    modifiers(&OtherMethods)
)]
struct Api;

/// The document.
pub(super) fn document() -> Document {
    Api::openapi()
}

/// `GET /openapi.json`.
pub(super) async fn json() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

/// `GET /docs`: needs nothing but the document.
pub(super) async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .body(include_str!("docs.html"))
}

/// How an operation can be refused, beside what is true of every one. Declared at its handler.
pub(super) trait Refusals {
    /// One of each kind; the values do not matter.
    fn problems() -> Vec<Problem>;
}

/// The responses of an operation that is refused in these ways.
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

/// Says of each path what is true of all.
struct OtherMethods;

impl Modify for OtherMethods {
    fn modify(&self, document: &mut Document) {
        for item in document.paths.paths.values_mut() {
            item.description = Some(OTHER_METHODS.to_owned());
        }
    }
}

/// What is true of every path; there is no operation to say it of.
const OTHER_METHODS: &str = "HEAD is answered as GET is, without the body. Any other method that \
    is not described is refused with 405 `/problems/method-not-allowed`.";

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
