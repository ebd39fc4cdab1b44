//! What is counted. Labels are bounded: routes are templates, methods and statuses are those that
//! routes answer with.

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use service::metrics::Registrar;
use storage::pg::connection::Pool;

/// Upper bounds in seconds: from a single fast commit to the deadline of a request.
const DURATION_BUCKETS: [f64; 13] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 2.0, 5.0,
];

/// Upper bounds in orders.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The counters of the process. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Orders answered with 201.
    pub orders_placed: Counter,
    /// Orders cancelled.
    pub orders_cancelled: Counter,
    /// Wake-ups sent to the relays.
    pub outbox_wake_ups: Counter,
    /// Orders that wait for a writer.
    pub orders_waiting: Gauge,
    orders_per_commit: Histogram,
    http_requests: Family<RequestLabels, Counter>,
    http_request_duration_seconds: Family<RouteLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

impl Metrics {
    /// Metrics that `registry` shows, together with the state of `pool`.
    pub fn register(registry: &mut Registry, pool: Pool) -> Self {
        let mut to = Registrar::new(registry);
        let metrics = Self {
            orders_placed: to.add("orders_placed", "Orders committed and answered with 201"),
            orders_cancelled: to.add(
                "orders_cancelled",
                "Orders cancelled; repeated cancellations do not count",
            ),
            outbox_wake_ups: to.add("outbox_wake_ups", "Notifications sent to the relays"),
            orders_waiting: to.add(
                "orders_waiting",
                "Orders that wait for a writer; 0 when group commit is off",
            ),
            orders_per_commit: to.histogram(
                "orders_per_commit",
                "Orders that shared a commit; nothing when group commit is off",
                BATCH_BUCKETS,
            ),
            http_requests: to.add(
                "http_requests",
                "Requests answered, by method, route template and status",
            ),
            http_request_duration_seconds: to.histograms(
                "http_request_duration_seconds",
                "Time from a request's head to the head of its answer",
                || Histogram::new(DURATION_BUCKETS),
            ),
        };
        registry.register_collector(Box::new(PoolState(pool)));
        metrics
    }

    /// Counts a commit that this many orders shared.
    pub fn committed(&self, orders: usize) {
        let orders = u32::try_from(orders).unwrap_or(u32::MAX);
        self.orders_per_commit.observe(f64::from(orders));
    }

    /// Counts an answered request. `route` is a template, never a path.
    pub fn answered(&self, method: &'static str, route: String, status: u16, took: Duration) {
        self.http_request_duration_seconds
            .get_or_create(&RouteLabels {
                method,
                route: route.clone(),
            })
            .observe(took.as_secs_f64());
        self.http_requests
            .get_or_create(&RequestLabels {
                method,
                route,
                status,
            })
            .inc();
    }
}

/// Reads the pool on each scrape, so that the numbers are current.
struct PoolState(Pool);

impl std::fmt::Debug for PoolState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PoolState").field(&self.0.status()).finish()
    }
}

impl Collector for PoolState {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let status = self.0.status();
        let numbers = [
            (
                "database_pool_connections_in_use",
                "Connections in use now",
                status.size.saturating_sub(status.available),
            ),
            (
                "database_pool_connections_max",
                "Connections the pool may have",
                status.max_size,
            ),
            (
                "database_pool_waiting",
                "Requests that wait for a connection",
                status.waiting,
            ),
        ];
        for (name, help, number) in numbers {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let gauge = ConstGauge::<f64>::new(f64::from(number));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
