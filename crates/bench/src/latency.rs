//! From the commit of an order to the commit of its effect, with all three services running.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::LatencyArgs;
use crate::process::{Service, free_port};
use crate::seed::Bench;

/// What a row of the inbox says against its event's, by the times of their commits. The first five
/// seconds do not count: connections are made and Kafka's machine compiles its code.
const LATENCIES: &str = "\
with taken as (
    select extract(epoch from pg_xact_commit_timestamp(i.xmin)
                              - pg_xact_commit_timestamp(e.xmin))::float8 * 1000 as milliseconds
    from inbox i join outbox_event e using (event_id)
    where e.created_at > (select min(created_at) + interval '5 s' from outbox_event))
select count(*), percentile_cont(array[0.5, 0.95, 0.99, 1]) within group (order by milliseconds)
from taken";

/// Orders at a steady rate, whatever the answers take; then what Postgres recorded.
pub(crate) async fn bench(args: &LatencyArgs) -> Result<()> {
    let bench = Bench::start()?;
    bench.seed("latency", "order.created", 0, 200).await?;
    let port = free_port()?;
    let services = [
        Service::start(
            &bench,
            "order-api",
            "latency",
            &[("PORT", port.to_string())],
        )?,
        Service::start(&bench, "outbox-relay", "latency", &[])?,
        Service::start(&bench, "order-consumer", "latency", &[])?,
    ];
    for service in &services {
        service.until_ready().await?;
    }
    println!("{} orders/s for {} s", args.rate, args.seconds);
    let orders = u64::from(args.rate) * args.seconds;
    let answered = place(port, args.rate, orders).await?;
    ensure!(answered == orders, "{answered} of {orders} orders accepted");

    let sql = bench.connect("latency").await?;
    let mut consumed: i64 = 0;
    for _ in 0..200 {
        let row = sql.query_one("select count(*) from inbox", &[]).await?;
        consumed = row.get(0);
        if u64::try_from(consumed)? >= orders {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(
        u64::try_from(consumed)? == orders,
        "{consumed} of {orders} consumed"
    );
    let row = sql.query_one(LATENCIES, &[]).await?;
    let percentiles: Vec<f64> = row.get(1);
    let names = ["p50", "p95", "p99", "slowest"];
    println!("commit of the order to commit of its effect, {consumed} orders:");
    for (name, milliseconds) in names.iter().zip(&percentiles) {
        println!("  {name:<8} {milliseconds:>8.2} ms");
    }
    for (limit, name, reached) in [
        (10.0, "p50", percentiles.first()),
        (50.0, "p99", percentiles.get(2)),
    ] {
        let verdict = if reached.is_some_and(|ms| *ms <= limit) {
            "reached"
        } else {
            "MISSED"
        };
        println!("  {name} at most {limit} ms: {verdict}");
    }
    drop(services);
    bench.stop()
}

async fn place(port: u16, rate: u32, orders: u64) -> Result<u64> {
    let client = reqwest::Client::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut requests = JoinSet::new();
    for number in 0..orders {
        ticks.tick().await;
        let request = client
            .post(format!("http://127.0.0.1:{port}/orders"))
            .json(&serde_json::json!({ "productId": format!("P-{}", number % 50) }));
        requests.spawn(async move { request.send().await.map(|answer| answer.status()) });
    }
    let mut accepted = 0;
    while let Some(answer) = requests.join_next().await {
        if answer?? == reqwest::StatusCode::CREATED {
            accepted += 1;
        }
    }
    Ok(accepted)
}
