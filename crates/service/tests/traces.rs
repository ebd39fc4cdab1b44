//! Spans on their way from a process to a collector: they arrive, the last ones too, and a collector
//! that is away, mute or in trouble costs spans and nothing else.
#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use local_stack::testing::{Collector, Manners, Mute, eventually};
use service::trace::{Kind, TraceSettings};
use service::{CancellationToken, Ops, OpsSettings, Process, Source, TraceParent, Tracer};
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const PROTOCOLS: [&str; 2] = ["http/protobuf", "grpc"];
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
        Self::start_with(endpoint, &[])
    }

    fn start_with(endpoint: &str, further: &[(&str, &str)]) -> Self {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        let pairs = further.iter().chain([&endpoint]).copied();
        let source = Source::from_pairs(pairs).unwrap();
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

    async fn until(&self, metric: &str, spans: usize) {
        eventually(metric, DEADLINE, async || {
            (self.metric(metric).await? >= spans).then_some(())
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
async fn they_arrive_by_each_protocol_with_tls_and_the_headers_that_were_set() {
    for protocol in PROTOCOLS {
        for tls in [false, true] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut settings = vec![
                (PROTOCOL, protocol),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token"),
            ];
            let collector = if tls {
                let collector = Collector::start_with_tls(Manners::Taking).await;
                std::fs::write(&file, collector.authority()).unwrap();
                settings.push((
                    "OTEL_EXPORTER_OTLP_CERTIFICATE",
                    file.path().to_str().unwrap(),
                ));
                collector
            } else {
                Collector::start(Manners::Taking).await
            };
            let process = Running::start_with(&collector.endpoint(), &settings);
            process.note(600);
            eventually("the spans", DEADLINE, async || {
                (collector.spans().len() == 600).then_some(())
            })
            .await;
            assert_eq!(collector.spans()[0].service, "test");
            let header = |name| collector.header(name);
            assert_eq!(header("authorization").as_deref(), Some("Bearer token"));
            let spoken = match protocol {
                "grpc" => "application/grpc",
                _ => "application/x-protobuf",
            };
            assert_eq!(header("content-type").as_deref(), Some(spoken));
            process.until("spans_exported_total", 600).await;
            process.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_of_another_authority_gets_nothing() {
    for protocol in PROTOCOLS {
        let collector = Collector::start_with_tls(Manners::Taking).await;
        let other = Collector::start_with_tls(Manners::Taking).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, other.authority()).unwrap();
        let settings = [
            (PROTOCOL, protocol),
            (
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
                file.path().to_str().unwrap(),
            ),
        ];
        let process = Running::start_with(&collector.endpoint(), &settings);
        process.note(5);
        eventually("two attempts", DEADLINE, async || {
            (collector.distrusted() >= 2).then_some(())
        })
        .await;
        assert_eq!(process.metric("spans_exported_total").await, Some(0));
        process.stop().await;
        assert_eq!(collector.requests(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_wait_for_a_collector_that_comes_back() {
    for protocol in PROTOCOLS {
        for status in ["503 Service Unavailable", "429 Too Many Requests"] {
            let collector = Collector::start(Manners::Refusing(status)).await;
            let process = Running::start_with(&collector.endpoint(), &[(PROTOCOL, protocol)]);
            process.note(5);
            eventually("two attempts", DEADLINE, async || {
                (collector.requests() >= 2).then_some(())
            })
            .await;
            collector.set(Manners::Taking);
            process.until("spans_exported_total", 5).await;
            assert_eq!(collector.spans().len(), 5);
            assert_eq!(process.metric("spans_dropped_total").await, Some(0));
            process.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_are_refused_are_dropped_and_counted() {
    for protocol in PROTOCOLS {
        let collector = Collector::start(Manners::Refusing("400 Bad Request")).await;
        let process = Running::start_with(&collector.endpoint(), &[(PROTOCOL, protocol)]);
        process.note(5);
        process.until("spans_dropped_total", 5).await;
        assert_eq!(collector.requests(), 1);
        assert_eq!(process.metric("spans_exported_total").await, Some(0));
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_rejected_out_of_a_batch_are_dropped_and_counted() {
    let collector = Collector::start(Manners::Rejecting(2)).await;
    let process = Running::start(&collector.endpoint());
    process.note(5);
    process.until("spans_dropped_total", 2).await;
    process.until("spans_exported_total", 3).await;
    assert_eq!(collector.requests(), 1);
    process.stop().await;
}

/// A collector that says nothing, and a process that has sent it a span.
async fn waiting_for_an_answer(protocol: &str) -> (Collector, Running) {
    let collector = Collector::start(Manners::Mute).await;
    let process = Running::start_with(&collector.endpoint(), &[(PROTOCOL, protocol)]);
    process.note(1);
    eventually("a request", DEADLINE, async || {
        (collector.requests() == 1).then_some(())
    })
    .await;
    (collector, process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_collector_costs_spans_and_no_time() {
    for protocol in PROTOCOLS {
        let (_collector, process) = waiting_for_an_answer(protocol).await;
        overfill_and_stop(process).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_answered_is_sent_again() {
    for protocol in PROTOCOLS {
        let (collector, process) = waiting_for_an_answer(protocol).await;
        collector.set(Manners::Taking);
        process.until("spans_exported_total", 1).await;
        assert_eq!(process.metric("spans_dropped_total").await, Some(0));
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_mute_before_tls_costs_spans_and_no_time() {
    let mute = Mute::accepting().await;
    let authority = Collector::start_with_tls(Manners::Taking).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, authority.authority()).unwrap();
    for protocol in PROTOCOLS {
        let settings = [
            (PROTOCOL, protocol),
            (
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
                file.path().to_str().unwrap(),
            ),
        ];
        let process = Running::start_with(&format!("https://{}", mute.address()), &settings);
        overfill_and_stop(process).await;
    }
}

/// More than the queue holds is given up at once, and the rest keeps nothing from stopping.
async fn overfill_and_stop(process: Running) {
    let began = Instant::now();
    process.note(20_000);
    let took = began.elapsed();
    process.until("spans_dropped_total", 15_000).await;
    assert!(took < Duration::from_secs(2), "noting took {took:?}");
    let took = process.stop().await;
    assert!(took < Duration::from_secs(4), "stopping took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_keeps_nothing_from_stopping() {
    overfill_and_stop(Running::start("http://127.0.0.1:1")).await;
}
