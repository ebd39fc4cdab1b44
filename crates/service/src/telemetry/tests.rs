//! What is written for a log line, and which filters are refused.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::*;
use crate::Source;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `log` leads to.
fn default_settings() -> TelemetrySettings {
    let nothing: [(&str, &str); 0] = [];
    TelemetrySettings::read(&mut Source::from_pairs(nothing).unwrap().reader())
}

fn lines(filter: &LogFilter, format: LogFormat, terminal: bool, log: impl FnOnce()) -> Vec<String> {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let output = log_lines(format, terminal, move || writer.clone());
    let subscriber = subscriber(filter, vec![output]).unwrap();
    tracing::subscriber::with_default(subscriber, log);
    let bytes = buffer.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn without_a_terminal_a_line_is_one_json_object_with_a_utc_date() {
    let log = || tracing::info!(orders = 3, "accepted");
    for (format, terminal) in [(LogFormat::Auto, false), (LogFormat::Json, true)] {
        let lines = lines(&default_settings().filter, format, terminal, log);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "accepted");
        assert_eq!(line["orders"], 3);
        let date = line["timestamp"].as_str().unwrap();
        assert!(date.ends_with('Z'), "{date}");
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(date, format).unwrap();
    }
}

#[test]
fn text_that_does_not_go_to_a_terminal_has_no_colours() {
    let log = || tracing::warn!("careful");
    let lines = lines(&default_settings().filter, LogFormat::Text, false, log);
    assert!(
        lines[0].contains("WARN") && lines[0].ends_with("careful"),
        "{lines:?}"
    );
    assert!(!lines[0].contains('\u{1b}'), "{lines:?}");
}

#[test]
fn the_filter_decides_what_is_written() {
    let log = || {
        tracing::info!(target: "rskafka::connection", "noise");
        tracing::debug!("detail");
        tracing::info!("news");
    };
    let count = |filter: &LogFilter| lines(filter, LogFormat::Json, false, log).len();
    assert_eq!(count(&default_settings().filter), 1);
    assert_eq!(count(&"debug".parse().unwrap()), 3);
    assert_eq!(count(&"off".parse().unwrap()), 0);
}

#[test]
fn a_wrong_filter_or_format_is_a_settings_error() {
    let pairs = [("RUST_LOG", "info,storage=loud"), ("LOG_FORMAT", "xml")];
    let source = Source::from_pairs(pairs).unwrap();
    let mut reader = source.reader();
    let settings = TelemetrySettings::read(&mut reader);
    assert_eq!(settings, default_settings());
    let error = reader.finish().unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert!(
        lines[0].starts_with("RUST_LOG is \"info,storage=loud\", expected"),
        "{error}"
    );
    assert!(
        lines[1].starts_with("LOG_FORMAT is \"xml\", expected auto, text or json"),
        "{error}"
    );
}

#[test]
fn a_misspelt_level_is_not_taken_for_a_target() {
    let error = "inof".parse::<LogFilter>().unwrap_err();
    assert_eq!(error.to_string(), "inof is not a level; did you mean info?");
    for fine in ["INFO", "order_api", "warn,storage=debug", "trace"] {
        fine.parse::<LogFilter>().unwrap();
    }
}
