//! Spans on their way from a process to a collector: they arrive, the last ones too, and a collector
//! that is away, mute or in trouble costs spans and nothing else.
#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use local_stack::testing::{Collector, Manners, eventually};
use service::trace::{Kind, TraceSettings};
use service::{CancellationToken, Ops, OpsSettings, Process, Source, TraceParent, Tracer};
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A running process without work.
struct Running {
    tracer: Tracer,
    stop: CancellationToken,
    ops: String,
    exit: JoinHandle<ExitCode>,
}

impl Running {
    fn start(endpoint: &str) -> Self {
        let source = Source::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]).unwrap();
        let mut reader = source.reader();
        let settings = TraceSettings::read(&mut reader);
        reader.finish().unwrap();
        let mut process = Process::new("test");
        let tracer = process.tracer(&settings);
        let stop = process.stop();
        let ops = Ops::bind(OpsSettings { port: 0 }).unwrap();
        let port = ops.local_addr().port();
        Self {
            tracer,
            stop,
            ops: format!("http://127.0.0.1:{port}/metrics"),
            exit: tokio::spawn(process.run_with(ops)),
        }
    }

    fn note(&self, spans: usize) {
        let parent: TraceParent = PARENT.parse().unwrap();
        for _ in 0..spans {
            let now = SystemTime::now();
            let span = self.tracer.begin(Kind::Producer, "work", Some(parent), now);
            span.unwrap().set("count", 3);
        }
    }

    async fn metric(&self, name: &str) -> Option<usize> {
        let text = reqwest::get(&self.ops).await.ok()?.text().await.ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    }

    async fn until_dropped(&self, spans: usize) {
        eventually("spans to be dropped", DEADLINE, async || {
            (self.metric("spans_dropped_total").await? >= spans).then_some(())
        })
        .await;
    }

    /// Stops it; how long that took.
    async fn stop(self) -> Duration {
        let asked = Instant::now();
        self.stop.cancel();
        let exit = tokio::time::timeout(DEADLINE, self.exit).await;
        assert_eq!(exit.unwrap().unwrap(), ExitCode::SUCCESS);
        asked.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_arrive_while_it_runs_and_the_last_ones_when_it_stops() {
    let collector = Collector::start(Manners::Taking).await;
    let process = Running::start(&collector.endpoint());
    process.note(3);
    eventually("the spans", DEADLINE, async || {
        (collector.spans().len() == 3).then_some(())
    })
    .await;
    let span = &collector.spans()[0];
    assert_eq!(
        (span.service.as_str(), span.name.as_str()),
        ("test", "work")
    );
    assert_eq!(span.trace_id, &PARENT[3..35]);
    assert_eq!(span.parent_span_id, &PARENT[36..52]);
    assert_eq!(span.attributes["count"], "3");
    // More than one request takes, and nothing to wait for: they go at once.
    process.note(1_200);
    let took = process.stop().await;
    assert_eq!(collector.spans().len(), 1_203);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_wait_for_a_collector_that_comes_back() {
    let collector = Collector::start(Manners::Refusing("503 Service Unavailable")).await;
    let process = Running::start(&collector.endpoint());
    process.note(5);
    eventually("two attempts", DEADLINE, async || {
        (collector.requests() >= 2).then_some(())
    })
    .await;
    collector.set(Manners::Taking);
    eventually("the spans", DEADLINE, async || {
        (collector.spans().len() == 5).then_some(())
    })
    .await;
    assert_eq!(process.metric("spans_dropped_total").await, Some(0));
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_are_refused_are_dropped_and_counted() {
    let collector = Collector::start(Manners::Refusing("400 Bad Request")).await;
    let process = Running::start(&collector.endpoint());
    process.note(5);
    process.until_dropped(5).await;
    assert_eq!(collector.requests(), 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_collector_costs_spans_and_no_time() {
    let collector = Collector::start(Manners::Mute).await;
    let process = Running::start(&collector.endpoint());
    process.note(1);
    eventually("a request", DEADLINE, async || {
        (collector.requests() == 1).then_some(())
    })
    .await;
    let began = Instant::now();
    process.note(20_000);
    let took = began.elapsed();
    // What the queue does not hold is given up at once.
    process.until_dropped(15_000).await;
    assert!(took < Duration::from_secs(2), "noting took {took:?}");
    let took = process.stop().await;
    assert!(took < Duration::from_secs(4), "stopping took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_keeps_nothing_from_stopping() {
    let process = Running::start("http://127.0.0.1:1");
    process.note(20_000);
    process.until_dropped(15_000).await;
    let took = process.stop().await;
    assert!(took < Duration::from_secs(4), "stopping took {took:?}");
}
