//! The order API as its clients see it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::{Order, OrderId};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Longer than the API lets any request take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the API. Clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    client: reqwest::Client,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) body: Value,
    location: Option<String>,
}

impl Api {
    pub(crate) fn new(base: &str) -> Result<Self> {
        Ok(Self {
            base: base.to_owned(),
            client: reqwest::Client::builder().timeout(TIMEOUT).build()?,
        })
    }

    /// Places an order and checks the answer against what was ordered.
    pub(crate) async fn place(&self, product: &str, quantity: u16) -> Result<Order> {
        let body = json!({ "productId": product, "quantity": quantity }).to_string();
        let answer = self.post_orders("application/json", &body).await?;
        ensure!(
            answer.status == StatusCode::CREATED,
            "an order was answered with {}: {}",
            answer.status,
            answer.body
        );
        let order = parse_order(&answer.body)?;
        ensure!(
            order.product_id.as_str() == product && order.quantity.get() == quantity,
            "ordered {body}, answered {}",
            answer.body
        );
        ensure!(
            answer.location == Some(format!("/orders/{}", order.id)),
            "the Location of order {} is {:?}",
            order.id,
            answer.location
        );
        Ok(order)
    }

    /// `POST /orders` with any body.
    pub(crate) async fn post_orders(&self, content_type: &str, body: &str) -> Result<Answer> {
        let request = self
            .client
            .post(format!("{}/orders", self.base))
            .header(CONTENT_TYPE, content_type)
            .body(body.to_owned());
        answer(request).await
    }

    /// `GET /orders/{id}`.
    pub(crate) async fn order(&self, id: OrderId) -> Result<Order> {
        let answer = self.get(&format!("/orders/{id}")).await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.body);
        parse_order(&answer.body)
    }

    /// `POST /orders/{id}/cancel`.
    pub(crate) async fn cancel(&self, id: OrderId) -> Result<Answer> {
        let url = format!("{}/orders/{id}/cancel", self.base);
        answer(self.client.post(url)).await
    }

    /// `GET /orders/{id}/journey`.
    pub(crate) async fn journey(&self, id: OrderId) -> Result<Value> {
        let answer = self.get(&format!("/orders/{id}/journey")).await?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.body);
        Ok(answer.body)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        answer(self.client.get(format!("{}{path}", self.base))).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer> {
    let response = request.send().await.context("the API does not answer")?;
    let text = |name| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    Ok(Answer {
        status: response.status(),
        content_type: text(CONTENT_TYPE).unwrap_or_default(),
        location: text(LOCATION),
        body: response.json().await.context("the answer is not JSON")?,
    })
}

pub(crate) fn parse_order(body: &Value) -> Result<Order> {
    let text = |name: &str| {
        body[name]
            .as_str()
            .with_context(|| format!("no {name} in {body}"))
    };
    Ok(Order {
        id: text("id")?.parse()?,
        product_id: text("productId")?.parse()?,
        quantity: body["quantity"]
            .as_i64()
            .with_context(|| format!("no quantity in {body}"))?
            .try_into()?,
        created_at: OffsetDateTime::parse(text("createdAt")?, &Rfc3339)?,
        cancelled_at: match body["cancelledAt"].as_str() {
            Some(text) => Some(OffsetDateTime::parse(text, &Rfc3339)?),
            None => None,
        },
    })
}
