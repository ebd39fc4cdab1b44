//! What makes the tests short: the service with a database of its own, and its answers as values.

use std::net::SocketAddr;
use std::time::Duration;

use local_stack::testing::TestDatabase;
use order_api::Application;
use order_api::settings::Settings;
use reqwest::header::HeaderMap;
use serde_json::Value;
use service::{CancellationToken, Source};
use storage::Connection;
use tokio_postgres::Client;

/// Far longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// No request may take longer, and here is a machine with more to do.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_millis(5_500);

/// A running service.
pub(crate) struct Api {
    pub(crate) http: reqwest::Client,
    pub(crate) address: SocketAddr,
    pub(crate) ops: SocketAddr,
    stop: CancellationToken,
}

/// A running service and its database.
pub(crate) struct TestApp {
    pub(crate) api: Api,
    pub(crate) sql: Client,
    pub(crate) database: TestDatabase,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// `Null` when the body is no JSON.
    pub(crate) body: Value,
    pub(crate) took: Duration,
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::create().await;
        let sql = database.connect().await;
        let api = Api::start(database.url(), settings);
        api.until_ready().await;
        Self { api, sql, database }
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap();
    }

    /// The number in the first row of a query.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The texts in the first column of a query.
    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let rows = self.sql.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// (orders, events, pending events).
    pub(crate) async fn stored(&self) -> (i64, i64, i64) {
        (
            self.number("select count(*) from orders").await,
            self.number("select count(*) from outbox_event").await,
            self.number("select count(*) from outbox_pending").await,
        )
    }

    /// A second connection of the service's own kind.
    pub(crate) async fn connection(&self) -> Connection {
        let database: storage::Database = self.database.url().parse().unwrap();
        let session = storage::Session::request("test");
        database.connect(&session).await.unwrap()
    }
}

impl Api {
    /// Serves on the given database, which need not be there.
    pub(crate) fn start(database_url: &str, settings: &[(&str, &str)]) -> Self {
        let given = [
            ("DATABASE_URL", database_url),
            ("PORT", "0"),
            ("OPS_PORT", "0"),
        ];
        let source = Source::from_pairs(given.iter().chain(settings).copied()).unwrap();
        let application = Application::bind(&Settings::read(&source).unwrap()).unwrap();
        let local = |address: SocketAddr| SocketAddr::from(([127, 0, 0, 1], address.port()));
        let api = Self {
            http: reqwest::Client::new(),
            address: local(application.address()),
            ops: local(application.ops_address()),
            stop: application.stop(),
        };
        tokio::spawn(application.run());
        api
    }

    /// `POST /orders`.
    pub(crate) async fn post(&self, body: impl Into<String>) -> Answer {
        self.post_as("application/json", body.into()).await
    }

    /// `POST /orders` with another content type.
    pub(crate) async fn post_as(
        &self,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self
            .http
            .post(self.url("/orders"))
            .header("content-type", content_type)
            .body(body);
        answer(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.http.get(self.url(path))).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// (whether `/readyz` says ready, the reason of the check "postgres").
    pub(crate) async fn readiness(&self) -> (bool, String) {
        let report = answer(self.http.get(format!("http://{}/readyz", self.ops))).await;
        let checks = report.body["checks"].as_array().unwrap();
        let postgres = checks.iter().find(|check| check["name"] == "postgres");
        let reason = postgres.unwrap()["reason"].as_str().unwrap_or_default();
        (report.status == 200, reason.to_owned())
    }

    pub(crate) async fn until_ready(&self) {
        local_stack::testing::eventually("the API to be ready", DEADLINE, async || {
            self.readiness().await.0.then_some(())
        })
        .await;
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.ops);
        self.http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// Fails the test unless this is a well-formed problem of the given kind.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, name: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["type"], format!("/problems/{name}"), "{self:?}");
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].is_string() && self.body["detail"].is_string());
        self
    }

    /// Fails the test unless this is a 503 that came in time.
    #[track_caller]
    pub(crate) fn expect_unavailable(&self, name: &str) -> &Self {
        self.expect_problem(503, name);
        assert!(self.took < ANSWER_WITHIN, "took {:?}", self.took);
        assert!(!self.header("retry-after").is_empty());
        self
    }

    /// The id of the order that was placed.
    #[track_caller]
    pub(crate) fn order_id(&self) -> String {
        assert_eq!(self.status, 201, "{self:?}");
        self.body["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let started = std::time::Instant::now();
    let response = request.timeout(DEADLINE).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.unwrap();
    Answer {
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        took: started.elapsed(),
    }
}
