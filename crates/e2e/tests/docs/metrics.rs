//! The tables of metrics.

use std::collections::BTreeSet;

use prometheus_client::registry::Registry;
use service::Source;

use crate::pages::{named_rows, read, section};

/// The names under which a registry's text shows its metrics: counters end in `_total`.
fn metric_names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|described| match described.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

fn encoded(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// What `/metrics` of an API shows once it has answered a request. Needs no Postgres.
async fn metrics_of_the_api() -> String {
    let given = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing"),
        ("PORT", "0"),
        ("OPS_PORT", "0"),
    ];
    let source = Source::from_pairs(given).unwrap();
    let settings = order_api::settings::Settings::read(&source).unwrap();
    let application = order_api::Application::bind(&settings).unwrap();
    let url = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
    let (port, ops) = (
        application.address().port(),
        application.ops_address().port(),
    );
    let stop = application.stop();
    let serving = tokio::spawn(application.run());
    reqwest::get(url(port, "/nothing")).await.unwrap();
    let answer = reqwest::get(url(ops, "/metrics")).await.unwrap();
    let text = answer.text().await.unwrap();
    stop.cancel();
    serving.await.unwrap();
    text
}

#[tokio::test]
async fn the_metrics_are_those_that_the_processes_show() {
    let operations = read("docs/operations.md");
    let told = |heading| {
        let rows = named_rows(section(&operations, heading));
        rows.into_iter().map(str::to_owned).collect()
    };
    let common: BTreeSet<String> = told("### Of every process");

    let api = metric_names(&metrics_of_the_api().await);
    assert!(common.is_subset(&api), "{common:?}");
    let own: BTreeSet<String> = api.difference(&common).cloned().collect();
    assert_eq!(told("### Of order-api"), own);

    let mut registry = Registry::default();
    outbox_relay::Metrics::register(&mut registry);
    assert_eq!(
        told("### Of outbox-relay"),
        metric_names(&encoded(&registry))
    );

    let mut registry = Registry::default();
    let metrics = order_consumer::Metrics::register(&mut registry);
    metrics.of("order.created").set_lag(0, 0, 0.0);
    assert_eq!(
        told("### Of order-consumer"),
        metric_names(&encoded(&registry))
    );
}
