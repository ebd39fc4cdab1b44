//! Which spans are sent, and where they say they belong. The way to a collector is tested with
//! whole processes.

use local_stack::testing::{Collector, Manners};

use super::*;
use crate::Source;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

fn settings(pairs: &[(&str, &str)]) -> TraceSettings {
    let endpoint = (ENDPOINT, "http://127.0.0.1:4318");
    let pairs = pairs.iter().chain([&endpoint]).copied();
    read(&Source::from_pairs(pairs).unwrap())
}

fn read(source: &Source) -> TraceSettings {
    let mut reader = source.reader();
    let settings = TraceSettings::read(&mut reader);
    reader.finish().unwrap();
    settings
}

/// Whether a span below `parent` is sent, and its place. No collector is asked: nothing runs.
fn begun(settings: &TraceSettings, parent: Option<&str>) -> (bool, TraceParent) {
    let (tracer, _exporter) = Tracer::new("test", settings, &SpanCounts::default());
    let parent = parent.map(|text| text.parse().unwrap());
    let span = tracer.begin(Kind::Server, "work", parent, SystemTime::now());
    let span = span.unwrap();
    (span.is_sampled(), span.trace_parent())
}

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[test]
fn without_a_collector_there_are_no_spans() {
    let nothing: [(&str, &str); 0] = [];
    let settings = read(&Source::from_pairs(nothing).unwrap());
    let (tracer, exporter) = Tracer::new("test", &settings, &SpanCounts::default());
    assert!(exporter.is_none() && !tracer.is_on());
    let span = tracer.begin(Kind::Server, "work", None, SystemTime::now());
    assert!(span.is_none());
}

#[test]
fn a_span_goes_on_with_its_parents_trace_and_decision() {
    let settings = settings(&[]);
    for (parent, sampled) in [(SAMPLED, true), (UNSAMPLED, false)] {
        let (sent, place) = begun(&settings, Some(parent));
        assert_eq!((sent, place.is_sampled()), (sampled, sampled));
        assert_eq!(place.trace_id(), &parent[3..35]);
        assert_ne!(place.to_string(), parent);
    }
    let (sent, place) = begun(&settings, None);
    assert!(sent && place.is_sampled());
}

#[test]
fn the_sampler_is_the_one_that_was_set() {
    for (sampler, ratio, with_sampled, with_unsampled, alone) in [
        ("always_on", "0", true, true, true),
        ("always_off", "1", false, false, false),
        ("traceidratio", "0", false, false, false),
        ("traceidratio", "1", true, true, true),
        ("parentbased_always_on", "0", true, false, true),
        ("parentbased_always_off", "1", true, false, false),
        ("parentbased_traceidratio", "0", true, false, false),
        ("parentbased_traceidratio", "1", true, false, true),
    ] {
        let settings = settings(&[
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", ratio),
        ]);
        let sent = |parent| begun(&settings, parent).0;
        assert_eq!(
            (sent(Some(SAMPLED)), sent(Some(UNSAMPLED)), sent(None)),
            (with_sampled, with_unsampled, alone),
            "{sampler} {ratio}"
        );
    }
}

#[test]
fn wrong_settings_are_named() {
    for (name, value, reason) in [
        (ENDPOINT, "collector:4318", "only http"),
        (ENDPOINT, "ftp://c:4318", "only http"),
        (ENDPOINT, "4318", "not a URL"),
        (ENDPOINT, "http://u:p@c", "a user"),
        (PROTOCOL, "http/json", "unknown protocol"),
        (CERTIFICATE, "/nowhere/ca.pem", "cannot read"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "token", "not name=value"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a b=token",
            "not a valid header name",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "host=token", "reserved"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a=token%0A",
            "not valid in a header",
        ),
        ("OTEL_TRACES_SAMPLER", "sometimes", "unknown sampler"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN", "from 0 to 1"),
    ] {
        let source = Source::from_pairs([(name, value)]).unwrap();
        let mut reader = source.reader();
        TraceSettings::read(&mut reader);
        let error = reader.finish().unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains(reason), "{error}");
        assert!(!error.contains("token"), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_work_together_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let collector = Collector::start_with_tls(Manners::Taking).await;
    std::fs::write(&file, collector.authority()).unwrap();
    let authority = file.path().to_str().unwrap();
    for (name, pairs, reason) in [
        (
            ENDPOINT,
            [(ENDPOINT, "http://c/otlp"), (PROTOCOL, "grpc")],
            "path with gRPC",
        ),
        (
            CERTIFICATE,
            [(ENDPOINT, "http://c"), (CERTIFICATE, authority)],
            "is not https",
        ),
        (
            CERTIFICATE,
            [(ENDPOINT, "https://c"), (CERTIFICATE, "/dev/null")],
            "no certificate",
        ),
    ] {
        let source = Source::from_pairs(pairs).unwrap();
        let mut reader = source.reader();
        TraceSettings::read(&mut reader);
        let error = reader.finish().unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        let error = error.to_string();
        assert!(error.starts_with(name) && error.contains(reason), "{error}");
    }
}

#[test]
fn headers_are_kept_and_never_shown() {
    let settings = settings(&[(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "authorization=Bearer%20hunter2, x-tenant = a=b",
    )]);
    assert!(!format!("{settings:?}").contains("hunter2"));
    let headers = settings.collector.unwrap().headers;
    let headers = headers.expose().map();
    assert_eq!(headers["authorization"], "Bearer hunter2");
    assert_eq!(headers["x-tenant"], "a=b");
    assert!(!format!("{headers:?}").contains("hunter2"));
}

#[test]
fn the_path_of_traces_is_below_the_endpoint() {
    for (endpoint, expected) in [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("http://c/otlp/", "http://c/otlp/v1/traces"),
    ] {
        let endpoint: collector::Endpoint = endpoint.parse().unwrap();
        assert_eq!(endpoint.traces().as_str(), expected);
    }
}
