//! Which spans are sent, and where they say they belong. The way to a collector is tested with
//! whole processes.

use super::*;
use crate::Source;

fn settings(pairs: &[(&str, &str)]) -> TraceSettings {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
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
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "only http"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "4318", "not a URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318", "only http"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:p@c", "a user"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "unknown sampler"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN", "from 0 to 1"),
    ] {
        let source = Source::from_pairs([(name, value)]).unwrap();
        let mut reader = source.reader();
        TraceSettings::read(&mut reader);
        let error = reader.finish().unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains(reason), "{error}");
    }
}

#[test]
fn the_path_of_traces_is_below_the_endpoint() {
    for (endpoint, expected) in [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("http://c/otlp/", "http://c/otlp/v1/traces"),
    ] {
        let collector: settings::Collector = endpoint.parse().unwrap();
        assert_eq!(collector.traces().as_str(), expected);
    }
}
