//! Clients of the order API. They believe what they are told, repeat what may be repeated, and
//! remember all of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use domain::OrderId;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::api::parse_order;
use crate::torture::ledger::{Cancelled, Ledger, Outcome, Placed, Progress};
use crate::torture::random::Random;

const PRODUCTS: usize = 20;
/// Longer than the API lets any request take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a client that wants to know repeats a request.
const PATIENT: usize = 200;
/// Problems after which a request may have had its effect, or may have it yet.
const UNKNOWN: [&str; 2] = [
    "/problems/outcome-unknown",
    "/problems/cancellation-unknown",
];

/// One client.
pub(crate) struct Client {
    apis: Vec<String>,
    http: reqwest::Client,
    random: Random,
    progress: Arc<Progress>,
    ledger: Ledger,
    /// Orders that can still be cancelled.
    own: Vec<OrderId>,
}

/// One answer.
enum Answer {
    Done(Value),
    NotDone,
    Unknown,
}

impl Client {
    pub(crate) fn new(apis: &[String], random: Random, progress: &Arc<Progress>) -> Result<Self> {
        Ok(Self {
            apis: apis.to_owned(),
            http: reqwest::Client::builder().timeout(TIMEOUT).build()?,
            random,
            progress: Arc::clone(progress),
            ledger: Ledger::default(),
            own: Vec::new(),
        })
    }

    /// Places and cancels orders until it is to stop.
    pub(crate) async fn run(mut self) -> Ledger {
        while !self.progress.is_over() {
            self.place().await;
            if self.random.one_in(4) && !self.own.is_empty() {
                let order = self.random.below(self.own.len());
                let order = self.own.swap_remove(order);
                self.cancel(order).await;
            }
            sleep(self.random.millis(10, 60)).await;
        }
        self.ledger
    }

    async fn place(&mut self) {
        let product = format!("torture-{}", self.random.below(PRODUCTS));
        let quantity = i32::try_from(1 + self.random.below(5)).expect("it is small");
        let key = (!self.random.one_in(10)).then(|| Uuid::now_v7().to_string());
        let body = json!({ "productId": product, "quantity": quantity }).to_string();
        // Most want to know; some give up after the first answer, whatever it is.
        let attempts = match &key {
            Some(_) if !self.random.one_in(5) => PATIENT,
            _ => 1,
        };
        let mut request = |api: &str| {
            let post = self.http.post(format!("{api}/orders"));
            let post = post.header(CONTENT_TYPE, "application/json");
            let post = match &key {
                Some(key) => post.header("Idempotency-Key", key),
                None => post,
            };
            post.body(body.clone())
        };
        let wrong = &mut self.ledger.wrong;
        let random = &mut self.random;
        let (outcome, answer) = ask(
            &mut request,
            &self.apis,
            random,
            StatusCode::CREATED,
            attempts,
            wrong,
        )
        .await;
        let order = answer.as_ref().and_then(|body| parse_order(body).ok());
        if let Some(body) = &answer {
            let as_asked = order.as_ref().is_some_and(|order| {
                order.product_id.as_str() == product && i32::from(order.quantity.get()) == quantity
            });
            if !as_asked {
                self.ledger
                    .wrong
                    .push(format!("asked for {product} {quantity}, got {body}"));
            }
            self.progress.order();
        }
        let id = order.map(|order| order.id);
        self.own.extend(id);
        self.ledger.orders.push(Placed {
            key,
            product,
            quantity,
            outcome,
            id,
        });
    }

    async fn cancel(&mut self, id: OrderId) {
        let attempts = self.random.of(&[1, PATIENT, PATIENT]);
        let mut request = |api: &str| self.http.post(format!("{api}/orders/{id}/cancel"));
        let wrong = &mut self.ledger.wrong;
        let random = &mut self.random;
        let (outcome, _) = ask(
            &mut request,
            &self.apis,
            random,
            StatusCode::OK,
            attempts,
            wrong,
        )
        .await;
        self.ledger.cancellations.push(Cancelled { id, outcome });
    }
}

/// Sends a request, again and again if need be, each time to any of the APIs.
async fn ask(
    request: &mut impl FnMut(&str) -> reqwest::RequestBuilder,
    apis: &[String],
    random: &mut Random,
    done: StatusCode,
    attempts: usize,
    wrong: &mut Vec<String>,
) -> (Outcome, Option<Value>) {
    let mut outcome = Outcome::NotDone;
    for _ in 0..attempts {
        let api = &apis[random.below(apis.len())];
        match answer(request(api), done, wrong).await {
            Answer::Done(body) => return (Outcome::Done, Some(body)),
            Answer::NotDone => {}
            // What comes later says nothing about this attempt.
            Answer::Unknown => outcome = Outcome::Unknown,
        }
        sleep(random.millis(50, 500)).await;
    }
    (outcome, None)
}

async fn answer(
    request: reqwest::RequestBuilder,
    done: StatusCode,
    wrong: &mut Vec<String>,
) -> Answer {
    let response = match request.send().await {
        Ok(response) => response,
        // Nobody was there to be asked.
        Err(error) if error.is_connect() => return Answer::NotDone,
        Err(_) => return Answer::Unknown,
    };
    let status = response.status();
    let Ok(body) = response.json::<Value>().await else {
        return Answer::Unknown;
    };
    let kind = body["type"].as_str().unwrap_or_default();
    match status {
        _ if status == done => Answer::Done(body),
        // An earlier attempt with this key is under way.
        StatusCode::CONFLICT => Answer::Unknown,
        StatusCode::SERVICE_UNAVAILABLE if UNKNOWN.contains(&kind) => Answer::Unknown,
        StatusCode::SERVICE_UNAVAILABLE => Answer::NotDone,
        _ => {
            wrong.push(format!("{status}: {body}"));
            Answer::Unknown
        }
    }
}
