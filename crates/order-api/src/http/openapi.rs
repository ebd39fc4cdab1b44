//! The OpenAPI document, made from the handlers' own descriptions, and the page that shows it.

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use utoipa::openapi::OpenApi as Document;
use utoipa::{Modify, OpenApi};

use super::orders;
use super::problem::Body;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Order API",
        description = "Places orders. An order exists if and only if its event does.\n\n\
            `GET /openapi.json` is this document, and `GET /docs` is a page for it. Any other \
            path answers 404 `/problems/not-found`."
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

/// `GET /docs`: a page that needs nothing but the document.
pub(super) async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .body(include_str!("docs.html"))
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

/// What is true of every path.
const OTHER_METHODS: &str = "HEAD answers like GET, without the body. Any other method that is not \
    described answers 405 `/problems/method-not-allowed`.";
