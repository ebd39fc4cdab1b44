//! The OpenAPI document, made from the handlers' own descriptions, and the page that shows it.

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use domain::OrderId;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Content, OpenApi as Document, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::orders;
use super::problem::{Body, Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Order API",
        description = "Places orders. An order is announced to the world if and only if it is stored."
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
