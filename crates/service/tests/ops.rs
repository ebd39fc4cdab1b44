//! The endpoints over real HTTP, as a scheduler and a scraper use them.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use service::heartbeat::Heartbeat;
use service::ops::OpsState;
use service::{CancellationToken, Ops, OpsSettings, Process, Readiness};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A process that runs in this one.
struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<ExitCode>,
}

impl Running {
    fn start(process: Process) -> Running {
        let ops = Ops::bind(OpsSettings { port: 0 }).unwrap();
        Running {
            address: ops.local_addr(),
            stop: process.stop(),
            task: tokio::spawn(process.run_with(ops)),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        get(self.address, path).await
    }

    /// Asks until the answer has this status.
    async fn get_until(&self, path: &str, status: u16) -> Answer {
        get_until(self.address, path, status).await
    }

    async fn end(self) {
        self.stop.cancel();
        let exit = tokio::time::timeout(DEADLINE, self.task).await;
        assert_eq!(exit.unwrap().unwrap(), ExitCode::SUCCESS);
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    let url = format!("http://127.0.0.1:{}{path}", address.port());
    let response = reqwest::get(url).await.unwrap();
    let content_type = response.headers().get("content-type");
    Answer {
        status: response.status().as_u16(),
        content_type: content_type
            .map_or("", |value| value.to_str().unwrap())
            .to_owned(),
        body: response.text().await.unwrap(),
    }
}

async fn get_until(address: SocketAddr, path: &str, status: u16) -> Answer {
    let start = Instant::now();
    loop {
        let answer = get(address, path).await;
        if answer.status == status {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "{path} is still {answer:?}");
    }
}

#[tokio::test]
async fn readyz_names_every_check_and_why_it_is_not_ready() {
    let process = Process::new("test");
    let postgres = process.readiness().check("postgres");
    let kafka = process.readiness().check("kafka");
    let running = Running::start(process);

    postgres.not_ready("connection refused");
    kafka.ready();
    let answer = running.get_until("/readyz", 503).await;
    assert_eq!(answer.content_type, "application/json");
    let report = answer.json();
    assert_eq!(report["status"], "not ready");
    assert_eq!(report["checks"][0]["name"], "postgres");
    assert_eq!(report["checks"][0]["ready"], false);
    assert_eq!(report["checks"][0]["reason"], "connection refused");
    let since = report["checks"][0]["since"].as_str().unwrap();
    let since = OffsetDateTime::parse(since, &Rfc3339).unwrap();
    assert!(since.offset().is_utc() && since <= OffsetDateTime::now_utc());
    assert_eq!(report["checks"][1]["ready"], true);
    assert_eq!(report["checks"][1].get("reason"), None);

    postgres.ready();
    let answer = running.get_until("/readyz", 200).await;
    assert_eq!(answer.json()["status"], "ready");
    running.end().await;
}

#[tokio::test]
async fn metrics_hold_what_the_service_registered_and_what_is_running() {
    let mut process = Process::new("test");
    let orders = Counter::<u64>::default();
    process
        .registry()
        .register("orders", "Orders accepted", orders.clone());
    let running = Running::start(process);
    orders.inc_by(3);
    let answer = running.get("/metrics").await;
    running.end().await;

    assert_eq!(answer.status, 200);
    assert!(
        answer
            .content_type
            .starts_with("application/openmetrics-text")
    );
    let lines: Vec<_> = answer.body.lines().collect();
    assert!(lines.contains(&"orders_total 3"), "{}", answer.body);
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("build_info{{service=\"test\",version=\"{version}\"}} 1");
    assert!(lines.contains(&build.as_str()), "{}", answer.body);
    let started: f64 = lines
        .iter()
        .find_map(|line| line.strip_prefix("process_start_time_seconds "))
        .unwrap()
        .parse()
        .unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(
        (now - 60.0..=now).contains(&started),
        "{started} is not now, {now}"
    );
    assert_eq!(lines.last(), Some(&"# EOF"));
}

#[tokio::test]
async fn any_other_path_is_a_problem_in_json() {
    let running = Running::start(Process::new("test"));
    let answer = running.get("/orders").await;
    running.end().await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.content_type, "application/problem+json");
    assert_eq!(answer.json()["status"], 404);
    assert_eq!(answer.json()["title"], "Not Found");
}

#[tokio::test]
async fn livez_fails_while_the_runtime_is_blocked_and_recovers_with_it() {
    let (address_known, address) = mpsc::channel();
    let (block, blocked) = tokio::sync::oneshot::channel::<()>();
    let (release, released) = mpsc::channel::<()>();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();

    // A runtime of one thread, so that one task can block all of it.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let ops = Ops::bind(OpsSettings { port: 0 }).unwrap();
            address_known.send(ops.local_addr()).unwrap();
            let heartbeat = Heartbeat::new();
            tokio::spawn(heartbeat.clone().run());
            let server = ops.serve(OpsState {
                heartbeat,
                max_heartbeat_age: Duration::from_secs(2),
                readiness: Readiness::new(),
                registry: Arc::new(Registry::default()),
            });
            let server = server.unwrap();
            let handle = server.handle();
            tokio::spawn(server);
            blocked.await.unwrap();
            released.recv().unwrap();
            ended.await.unwrap();
            handle.stop(false).await;
        });
    });

    let address = address.recv_timeout(DEADLINE).unwrap();
    get_until(address, "/livez", 200).await;
    block.send(()).unwrap();
    let answer = get_until(address, "/livez", 503).await;
    assert!(
        answer
            .body
            .contains("the runtime has made no progress for 2 s"),
        "{answer:?}"
    );
    release.send(()).unwrap();
    get_until(address, "/livez", 200).await;
    end.send(()).unwrap();
    thread.join().unwrap();
}
