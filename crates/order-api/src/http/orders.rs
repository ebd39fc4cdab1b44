//! The routes under `/orders`.

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Json, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use domain::{Order, OrderId};
use time::OffsetDateTime;

use super::Shared;
use super::body::json_body;
use super::place_order::PlaceOrder;
use super::problem::Problem;
use super::views::{JourneyView, OrderView};

/// `POST /orders`: 201 once the order and its event are committed.
pub(super) async fn place(
    shared: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = json_body(&request, payload).await?;
    let PlaceOrder {
        product_id,
        quantity,
    } = PlaceOrder::parse(&body)?;
    let order = Order::place(product_id, quantity, OffsetDateTime::now_utc());
    let placed = shared.store.place(order.clone().into()).await;
    placed.map_err(|error| Problem::from_placing(error, order.id))?;
    shared.metrics.orders_placed.inc();
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, format!("/orders/{}", order.id)))
        .json(OrderView::from(&order)))
}

/// `GET /orders/{id}`.
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

/// `GET /orders/{id}/journey`.
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
