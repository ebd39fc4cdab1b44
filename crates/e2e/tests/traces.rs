//! One trace from the request to the effect: the three services, a real Postgres, a real Kafka and a
//! collector of traces.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use domain::{EventType, OrderCreated};
use local_stack::testing::{Collector, Manners, SentSpan, TestDatabase, eventually};
use messaging::{Cluster, PartitionReader};
use serde_json::{Value, json};
use service::Source;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_mins(1);

/// The services, running in this process until the test ends. The topic is the one that all tests
/// share, so products and trace ids tell events apart.
struct System {
    orders: String,
    sql: Client,
    collector: Collector,
    _database: TestDatabase,
}

impl System {
    async fn start(manners: Manners) -> Self {
        let database = TestDatabase::create().await;
        let brokers = local_stack::up().unwrap().kafka_brokers;
        let sql = database.connect().await;
        begin_at_the_end(&sql, &brokers).await;
        let collector = Collector::start(manners).await;
        let given = [
            ("DATABASE_URL", database.url().to_owned()),
            ("KAFKA_BROKERS", brokers),
            ("PORT", "0".to_owned()),
            ("OPS_PORT", "0".to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ];
        let source = Source::from_pairs(given).unwrap();
        let settings = order_api::settings::Settings::read(&source).unwrap();
        let api = order_api::Application::bind(&settings).unwrap();
        let port = api.address().port();
        tokio::spawn(api.run());
        let settings = outbox_relay::Settings::read(&source).unwrap();
        tokio::spawn(outbox_relay::app::run(settings));
        let settings = order_consumer::Settings::read(&source).unwrap();
        tokio::spawn(order_consumer::app::run(settings));
        Self {
            orders: format!("http://127.0.0.1:{port}/orders"),
            sql,
            collector,
            _database: database,
        }
    }

    /// Places an order; the `traceparent` of its event.
    async fn place(&self, traceparent: Option<&str>) -> String {
        let body = json!({"productId": "traced"});
        let mut request = reqwest::Client::new().post(&self.orders).json(&body);
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let order: Value = answer.json().await.unwrap();
        let query = "select headers->>'traceparent' from outbox_event where key = $1";
        let key = order["id"].as_str().unwrap();
        self.sql.query_one(query, &[&key]).await.unwrap().get(0)
    }

    /// The spans of a trace by kind, once there is one of each.
    async fn trace(&self, trace_id: &str) -> [SentSpan; 3] {
        eventually("a span of each service", PATIENCE, async || {
            let spans = self.collector.trace(trace_id);
            let of = |kind| spans.iter().find(|span| span.kind == kind).cloned();
            let found = [of("Server")?, of("Producer")?, of("Consumer")?];
            assert_eq!(spans.len(), found.len(), "{spans:?}");
            Some(found)
        })
        .await
    }

    /// Commits events as any program with SQL may.
    async fn write(&self, product: &str, headers: &Value, events: i64) {
        let statement = "
            insert into outbox_event (event_id, topic, key, event_type, payload, headers)
            select gen_random_uuid(), 'order.created', id, 'OrderCreated',
                   json_build_object('orderId', id, 'productId', $1::text), $2::text::jsonb
            from (select gen_random_uuid()::text id from generate_series(1, $3::bigint)) ids";
        let parameters: [&(dyn ToSql + Sync); 3] = [&product, &headers.to_string(), &events];
        self.sql.execute(statement, &parameters).await.unwrap();
    }

    async fn until_sold(&self, product: &str, orders: i64) {
        let query = "select orders from product_sales where product_id = $1";
        eventually("the sales", PATIENCE, async || {
            let row = self.sql.query_opt(query, &[&product]).await.unwrap()?;
            (row.get::<_, i64>(0) == orders).then_some(())
        })
        .await;
    }
}

/// What other tests left in the topic is not for the group of this one: its spans would fill the
/// queue.
async fn begin_at_the_end(sql: &Client, brokers: &str) {
    let cluster = Cluster::new(brokers.parse().unwrap());
    let topic = OrderCreated::TOPIC;
    cluster.ensure_topic(topic, 6, 1).await.unwrap();
    let partitions = cluster.partition_counts().await.unwrap()[topic];
    for partition in 0..partitions {
        // A partition of a topic just made has no leader yet.
        let end = eventually("a leader of each partition", PATIENCE, async || {
            let mut reader = PartitionReader::new(cluster.clone(), topic, partition);
            reader.latest().await.ok()
        })
        .await;
        let statement = "insert into inbox_offset (consumer_group, topic, partition, next_offset)
                         values ('order-group', $1, $2, $3)";
        let parameters: [&(dyn ToSql + Sync); 3] = [&topic, &partition, &end];
        sql.execute(statement, &parameters).await.unwrap();
    }
}

fn check(spans: &[SentSpan; 3], event: &str, parent: &str) {
    let [request, sent, processed] = spans;
    for (span, service, name) in [
        (request, "order-api", "POST /orders"),
        (sent, "outbox-relay", "send order.created"),
        (processed, "order-consumer", "process order.created"),
    ] {
        assert_eq!((span.service.as_str(), span.name.as_str()), (service, name));
        assert!(!span.failed && span.nanoseconds > 0, "{span:?}");
    }
    let (trace_id, span_id) = (&request.trace_id, &request.span_id);
    assert_eq!(event, format!("00-{trace_id}-{span_id}-01"));
    assert_eq!(request.parent_span_id, parent);
    assert_eq!(&sent.parent_span_id, span_id);
    assert_eq!(&processed.parent_span_id, span_id);
    for same in [
        "messaging.message.id",
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
    ] {
        assert_eq!(sent.attributes[same], processed.attributes[same], "{same}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_one_trace_from_the_request_to_the_effect() {
    let system = System::start(Manners::Taking).await;
    let trace_id = Uuid::now_v7().simple().to_string();
    let parent = "00f067aa0ba902b7";
    let given = format!("00-{trace_id}-{parent}-01");
    let event = system.place(Some(&given)).await;
    check(&system.trace(&trace_id).await, &event, parent);

    let event = system.place(None).await;
    check(&system.trace(&event[3..35]).await, &event, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_trace_that_is_recorded_has_its_effect_and_no_span() {
    let system = System::start(Manners::Taking).await;
    let unsampled = Uuid::now_v7().simple().to_string();
    let product = Uuid::now_v7().to_string();
    for headers in [
        json!({}),
        json!({"traceparent": "nonsense"}),
        json!({"traceparent": format!("00-{unsampled}-0000000000000000-01")}),
        json!({"traceparent": format!("00-{unsampled}-00f067aa0ba902b7-00")}),
    ] {
        system.write(&product, &headers, 1).await;
    }
    system.until_sold(&product, 4).await;
    // What is sent after them arrives after them.
    let event = system.place(None).await;
    system.trace(&event[3..35]).await;
    let query = "select event_id::text from outbox_event where payload->>'productId' = $1";
    let rows = system.sql.query(query, &[&product]).await.unwrap();
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for span in system.collector.spans() {
        let id = span.attributes.get("messaging.message.id");
        assert!(id.is_none_or(|id| !ids.contains(id)), "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_collector_keeps_no_event_from_its_effect() {
    let system = System::start(Manners::Mute).await;
    let product = Uuid::now_v7().to_string();
    let trace_id = Uuid::now_v7().simple();
    let headers = json!({"traceparent": format!("00-{trace_id}-00f067aa0ba902b7-01")});
    // The relay and the consumer send their spans, and are not answered.
    system.write(&product, &headers, 1).await;
    eventually("both to wait for an answer", PATIENCE, async || {
        let spans = system.collector.trace(&trace_id.to_string());
        let came = |kind: &str| spans.iter().any(|span| span.kind == kind);
        (came("Producer") && came("Consumer")).then_some(())
    })
    .await;
    let written = 300;
    system.write(&product, &headers, written).await;
    system.until_sold(&product, written + 1).await;
}
