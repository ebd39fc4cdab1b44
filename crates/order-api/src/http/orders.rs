//! The routes under `/orders`.

use std::collections::BTreeMap;

use actix_web::http::header::{ContentType, LOCATION};
use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder};
use domain::{Order, OrderId, TooLateToCancel};
use time::OffsetDateTime;

use super::Shared;
use super::body::json_body;
use super::idempotency;
use super::page::Page;
use super::place_order::{PlaceOrder, PlaceOrderBody};
use super::problem::Problem;
use super::refusals::{Refusals, Refused};
use super::trace::RequestContext;
use super::views::{JourneyView, OrderPage, OrderView};
use crate::store::{Cancellation, Cancelled, KeptAnswer, Placed, Placement};

/// Place an order
///
/// Answers once the order and its event are committed.
#[utoipa::path(
    post,
    path = "/orders",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        pattern = "^[!-~]+$", description = "Makes the request safe to repeat: the same key and \
        body get the first answer again")),
    request_body = PlaceOrderBody,
    responses((status = 201, description = "The order is placed", body = OrderView, headers(
        ("Location" = String, description = "Path of the order"),
        ("Idempotent-Replayed" = Option<String>, description = "true if this is the answer to \
            an earlier request with this key"))), Refused<Placing>)
)]
pub(super) async fn place(
    shared: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let key = idempotency::key(request.headers())?;
    let body = json_body(&request, payload).await?;
    let PlaceOrder {
        product_id,
        quantity,
    } = PlaceOrder::parse(&body)?;
    let order = Order::place(product_id, quantity, OffsetDateTime::now_utc());
    let id = order.id;
    let response = serde_json::to_string(&OrderView::from(&order))
        .expect("an order has string keys and finite numbers only");
    let has_key = key.is_some();
    let mut event = order.created_event();
    if let Some(context) = request.extensions().get::<RequestContext>() {
        event.headers.extend(context.event_headers());
    }
    let placement = Placement {
        answer: key.map(|key| KeptAnswer {
            key,
            request_hash: idempotency::request_hash(&body),
            status: CREATED,
            response: response.clone(),
            order: id,
        }),
        order,
        event,
    };
    let placed = shared.store.place(placement).await;
    match placed.map_err(|error| Problem::from_placing(error, id, has_key))? {
        Placed::New => {
            shared.metrics.orders_placed.inc();
            Ok(created(id).body(response))
        }
        Placed::Replayed(kept) => Ok(created(kept.order)
            .insert_header((idempotency::REPLAYED, "true"))
            .body(kept.response)),
    }
}

struct Placing;

impl Refusals for Placing {
    fn problems() -> Vec<Problem> {
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
}

/// The only status that is kept.
const CREATED: i16 = 201;

fn created(id: OrderId) -> HttpResponseBuilder {
    let mut answer = HttpResponse::Created();
    answer
        .insert_header((LOCATION, format!("/orders/{id}")))
        .content_type(ContentType::json());
    answer
}

/// List orders, newest first
#[utoipa::path(
    get,
    path = "/orders",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100,
            description = "Maximum orders on the page. Default: 20"),
        ("after" = Option<String>, Query, format = "uuid",
            description = "`next` of the previous page")),
    responses((status = 200, description = "A page of orders", body = OrderPage), Refused<Listing>)
)]
pub(super) async fn list(
    shared: Data<Shared>,
    request: HttpRequest,
) -> Result<Json<OrderPage>, Problem> {
    let Page { limit, after } = Page::parse(request.query_string())?;
    // One more tells whether there is a next page.
    let found = shared.store.newest(after, limit + 1).await;
    let orders = found.map_err(Problem::from_store)?;
    Ok(Json(OrderPage::new(&orders, limit)))
}

struct Listing;

impl Refusals for Listing {
    fn problems() -> Vec<Problem> {
        vec![invalid_value()]
    }
}

/// Get an order
#[utoipa::path(
    get,
    path = "/orders/{id}",
    params(("id" = String, Path, description = "The order's id, a UUID")),
    responses((status = 200, description = "The order", body = OrderView), Refused<OfOneOrder>)
)]
pub(super) async fn show(
    shared: Data<Shared>,
    id: Path<String>,
) -> Result<Json<OrderView>, Problem> {
    let found = shared.store.find(parse(&id)?).await;
    let order = found
        .map_err(Problem::from_store)?
        .ok_or_else(|| none(&id))?;
    Ok(Json(OrderView::from(&order)))
}

struct OfOneOrder;

impl Refusals for OfOneOrder {
    fn problems() -> Vec<Problem> {
        vec![none("")]
    }
}

/// Cancel an order
///
/// Answers once the order's new state and its event are committed. You can repeat it: a cancelled
/// order stays as it is.
#[utoipa::path(
    post,
    path = "/orders/{id}/cancel",
    params(("id" = String, Path, description = "The order's id, a UUID")),
    responses(
        (status = 200, description = "The order is cancelled", body = OrderView),
        Refused<Cancelling>)
)]
pub(super) async fn cancel(
    shared: Data<Shared>,
    request: HttpRequest,
    id: Path<String>,
) -> Result<Json<OrderView>, Problem> {
    let order = parse(&id)?;
    let mut cancellation = Cancellation {
        order,
        at: OffsetDateTime::now_utc(),
        headers: BTreeMap::new(),
    };
    if let Some(context) = request.extensions().get::<RequestContext>() {
        cancellation.headers.extend(context.event_headers());
    }
    let cancelled = shared.store.cancel(cancellation).await;
    match cancelled.map_err(|error| Problem::from_cancelling(error, order))? {
        Cancelled::Now(order) => {
            shared.metrics.orders_cancelled.inc();
            Ok(Json(OrderView::from(&order)))
        }
        Cancelled::Before(order) => Ok(Json(OrderView::from(&order))),
        Cancelled::TooLate(too_late) => Err(Problem::TooLateToCancel(too_late)),
        Cancelled::NoOrder => Err(none(&id)),
        Cancelled::Locked => Err(Problem::Busy),
    }
}

struct Cancelling;

impl Refusals for Cancelling {
    fn problems() -> Vec<Problem> {
        let order = OrderId::generate();
        let until = OffsetDateTime::UNIX_EPOCH;
        vec![
            none(""),
            Problem::TooLateToCancel(TooLateToCancel { until }),
            Problem::CancellationUnknown { order },
        ]
    }
}

/// Get the journey of an order
///
/// When and where its events were written, delivered and consumed, or why they are held.
#[utoipa::path(
    get,
    path = "/orders/{id}/journey",
    params(("id" = String, Path, description = "The order's id, a UUID")),
    responses(
        (status = 200, description = "The order's events and where they are", body = JourneyView),
        Refused<OfOneOrder>)
)]
pub(super) async fn journey(
    shared: Data<Shared>,
    id: Path<String>,
) -> Result<Json<JourneyView>, Problem> {
    let found = shared.store.journey(parse(&id)?).await;
    let (order, events) = found
        .map_err(Problem::from_store)?
        .ok_or_else(|| none(&id))?;
    Ok(Json(JourneyView::new(&order, events)))
}

/// What cannot be an order's id names no order.
fn parse(id: &str) -> Result<OrderId, Problem> {
    id.parse().map_err(|_| none(id))
}

fn none(id: &str) -> Problem {
    Problem::OrderNotFound { id: id.to_owned() }
}

fn invalid_value() -> Problem {
    Problem::InvalidValue {
        field: None,
        reason: String::new(),
    }
}
