//! Measures `POST /orders` of the real executable under a real load generator (oha): commits shared
//! and not, interleaved, medians of several rounds; and pgbench doing the same two inserts on the
//! same Postgres, where it is installed.
//!
//! Usage: `bench_api ORDER-API OHA [ROUNDS [SECONDS]]`
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local_stack::testing::{TestDatabase, eventually};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const CONNECTIONS: [u32; 4] = [1, 8, 64, 256];
const MODES: [&str; 2] = ["on", "off"];
const PGBENCH: &str = "\
begin;
insert into orders (id, product_id, quantity, created_at) values (gen_random_uuid(), 'P-001', 1, now());
insert into outbox_event (event_id, topic, key, event_type, schema_version, payload, headers)
values (gen_random_uuid(), 'order.created', gen_random_uuid()::text, 'OrderCreated', 2, \
'{\"orderId\":\"0190a5d0-0000-7000-8000-000000000001\",\"productId\":\"P-001\",\"quantity\":1,\"createdAt\":\"2026-01-01T00:00:00Z\"}', '{}');
commit;
";

/// What one run gave: requests a second, and latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    rate: f64,
    p50: f64,
    p99: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, api, oha, ..] = &arguments[..] else {
        anyhow::bail!("usage: bench_api ORDER-API OHA [ROUNDS [SECONDS]]");
    };
    let number = |n: usize, default| arguments.get(n).map_or(Ok(default), |text| text.parse());
    let (rounds, seconds) = (number(3, 5)?, number(4, 3)?);

    let database = TestDatabase::create().await;
    let mut servers = Vec::new();
    for mode in MODES {
        servers.push(serve(api, database.url(), mode).await?);
    }
    let mut all: BTreeMap<(u32, &str), Vec<Figures>> = BTreeMap::new();
    for _ in 0..rounds {
        for connections in CONNECTIONS {
            for (mode, (_, address)) in MODES.iter().zip(&servers) {
                let figures = load(oha, address, connections, seconds).await?;
                all.entry((connections, mode)).or_default().push(figures);
            }
            if let Some(rate) = pgbench(database.url(), connections, seconds).await? {
                let figures = Figures {
                    rate,
                    ..Figures::default()
                };
                all.entry((connections, "pgbench"))
                    .or_default()
                    .push(figures);
            }
        }
    }
    drop(servers);
    report(&all);
    Ok(())
}

/// Starts the executable and waits until it answers.
async fn serve(api: &str, database: &str, mode: &str) -> Result<(Child, String)> {
    let mut child = Command::new(api)
        .env_clear()
        .envs([
            ("DATABASE_URL", database),
            ("API__GROUP_COMMIT", mode),
            ("PORT", "0"),
            ("OPS_PORT", "0"),
            ("LOG_FORMAT", "json"),
            // The start's lines, which tell the port, and no line for each request.
            ("RUST_LOG", "info,order_api::http=warn,actix_server=warn"),
        ])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {api}"))?;
    let mut log = BufReader::new(child.stderr.take().context("a pipe")?).lines();
    let address = loop {
        let line = log.next_line().await?.context("it ended without serving")?;
        let line: Value = serde_json::from_str(&line)?;
        if let Some(address) = line["address"].as_str() {
            break address.replace("0.0.0.0", "127.0.0.1");
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    let client = reqwest::Client::new();
    eventually("an answer", Duration::from_secs(20), async || {
        let answer = client.get(format!("http://{address}/orders")).send().await;
        answer.ok().filter(|answer| answer.status().is_success())
    })
    .await;
    Ok((child, address))
}

async fn load(oha: &str, address: &str, connections: u32, seconds: u32) -> Result<Figures> {
    let output = Command::new(oha)
        .args([
            "--no-tui",
            "--json",
            "-m",
            "POST",
            "-H",
            "content-type: application/json",
        ])
        // It would follow the Location of a 201.
        .args(["--redirect", "0"])
        .args(["-d", r#"{"productId":"P-001"}"#])
        .args(["-z", &format!("{seconds}s"), "-c", &connections.to_string()])
        .arg(format!("http://{address}/orders"))
        .output()
        .await
        .with_context(|| format!("running {oha}"))?;
    let result: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let statuses = result["statusCodeDistribution"]
        .as_object()
        .context("statuses")?;
    ensure!(
        statuses.keys().all(|status| status == "201"),
        "not all were placed: {statuses:?}"
    );
    let latency = |name: &str| {
        result["latencyPercentiles"][name]
            .as_f64()
            .unwrap_or(f64::NAN)
            * 1e3
    };
    Ok(Figures {
        rate: result["summary"]["requestsPerSec"]
            .as_f64()
            .context("a rate")?,
        p50: latency("p50"),
        p99: latency("p99"),
    })
}

/// Transactions a second; `None` where pgbench is not installed.
async fn pgbench(database: &str, clients: u32, seconds: u32) -> Result<Option<f64>> {
    // More sessions than Postgres takes would measure its refusals.
    if clients > 64 {
        return Ok(None);
    }
    let script = std::env::temp_dir().join(format!("two-inserts-{}.sql", std::process::id()));
    std::fs::write(&script, PGBENCH)?;
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--file"])
        .arg(&script)
        .args([format!("--client={clients}"), format!("--time={seconds}")])
        .arg(database)
        .output()
        .await;
    std::fs::remove_file(&script)?;
    let Ok(output) = output else { return Ok(None) };
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rate| rate.split(' ').next()?.parse().ok());
    Ok(Some(rate.with_context(|| {
        format!("{said}{}", String::from_utf8_lossy(&output.stderr))
    })?))
}

fn report(all: &BTreeMap<(u32, &str), Vec<Figures>>) {
    let median = |key: (u32, &str), figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = all.get(&key)?.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    };
    println!("connections | mode | requests/s | p50 ms | p99 ms");
    for key in all.keys() {
        let figure = |figure| median(*key, figure).unwrap_or(f64::NAN);
        println!(
            "{:>11} | {:<7} | {:>8.0} | {:>6.2} | {:>6.2}",
            key.0,
            key.1,
            figure(|f| f.rate),
            figure(|f| f.p50),
            figure(|f| f.p99)
        );
    }
    let ratio = |connections, figure: fn(&Figures) -> f64| {
        Some(median((connections, "on"), figure)? / median((connections, "off"), figure)?)
    };
    if let (Some(rate), Some(latency)) = (ratio(64, |f| f.rate), ratio(1, |f| f.p50)) {
        println!(
            "on / off: requests at 64 connections {rate:.2} (at least 3), p50 at 1 connection {latency:.2} (at most 1.05)"
        );
    }
}
