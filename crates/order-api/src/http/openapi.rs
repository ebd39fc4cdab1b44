//! The OpenAPI document, made from the handlers' own descriptions, and the page that shows it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use domain::OrderId;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::orders;
use super::problem::{Body, Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Order API",
        description = "Places orders. An order is announced to the world if and only if it is stored.\n\n\
            `GET /openapi.json` is this document and `GET /docs` a page that shows it. Any other \
            path is refused with 404 `/problems/not-found`."
    ),
    paths(orders::place, orders::list, orders::show, orders::journey),
    components(schemas(Body)),
    modifiers(&Refusals)
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

/// Adds the ways in which each operation can be refused, from the one place that knows them.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut Document) {
        for (path, item) in &mut document.paths.paths {
            item.description = Some(OTHER_METHODS.to_owned());
            let by_method = [(&mut item.get, false), (&mut item.post, true)];
            for (operation, places) in by_method {
                let Some(operation) = operation else { continue };
                let mut problems = anywhere();
                match (places, path.contains("{id}")) {
                    (true, _) => problems.extend(placing()),
                    (false, true) => problems.push(Problem::OrderNotFound { id: String::new() }),
                    (false, false) => problems.push(invalid_value()),
                }
                describe(operation, &problems);
                describe_unreadable(operation);
            }
        }
    }
}

fn describe(operation: &mut Operation, problems: &[Problem]) {
    for problem in problems {
        let status = problem.kind().status;
        let alike = problems
            .iter()
            .map(Problem::kind)
            .filter(|k| k.status == status);
        let names: Vec<_> = alike
            .map(|kind| format!("`/problems/{}`: {}", kind.name, kind.title))
            .collect();
        let schema = Ref::from_schema_name("Problem");
        let response = ResponseBuilder::new()
            .description(names.join("; "))
            .content("application/problem+json", Content::new(Some(schema)))
            .build();
        let responses = &mut operation.responses.responses;
        responses.insert(status.as_str().to_owned(), response.into());
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

fn describe_unreadable(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for (status, reason) in UNREADABLE {
        let without_body = format!("without a body: {reason}");
        match responses.get_mut(status.as_str()) {
            Some(RefOr::T(response)) => {
                response.description = format!("{}; {without_body}", response.description);
            }
            Some(RefOr::Ref(_)) => unreachable!("responses are written out here"),
            None => {
                let response = ResponseBuilder::new().description(without_body).build();
                responses.insert(status.as_str().to_owned(), response.into());
            }
        }
    }
}

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

fn placing() -> Vec<Problem> {
    vec![
        Problem::MalformedJson {
            reason: String::new(),
        },
        Problem::BodyTooSlow,
        Problem::KeyInFlight,
        Problem::BodyTooLarge,
        Problem::UnsupportedMediaType { reason: "" },
        invalid_value(),
        Problem::KeyReused,
        Problem::OutcomeUnknown {
            order: OrderId::generate(),
            has_key: false,
        },
    ]
}

fn invalid_value() -> Problem {
    Problem::InvalidValue {
        field: None,
        reason: String::new(),
    }
}
