//! Logs of a process: `tracing` to stderr, as text for people and JSON for machines, and panics as
//! log lines. Nothing happens before [`init`]; only a `main` calls it. Spans for a collector are in
//! [`crate::trace`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::Reader;
use crate::trace::TraceSettings;

/// Names that may stand alone in a filter, besides targets.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// One output of the process's log lines.
type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetrySettings {
    /// `RUST_LOG`.
    pub filter: LogFilter,
    /// `LOG_FORMAT`.
    pub format: LogFormat,
    /// Spans for a collector; off unless there is one.
    pub traces: TraceSettings,
}

impl TelemetrySettings {
    /// Reads `RUST_LOG`, `LOG_FORMAT` and OpenTelemetry's variables.
    pub fn read(reader: &mut Reader<'_>) -> TelemetrySettings {
        TelemetrySettings {
            filter: reader.value("RUST_LOG"),
            format: reader.value("LOG_FORMAT"),
            traces: TraceSettings::read(reader),
        }
    }
}

/// A `tracing` filter that is known to parse, such as `info,order_api=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// A filter that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// Not the filter language.
    #[error(transparent)]
    Syntax(#[from] ParseError),
    /// A lone word that is almost a level. It would parse as a target's name and so turn off every
    /// other log line.
    #[error("{written} is not a level; did you mean {level}?")]
    Level {
        /// The word given.
        written: String,
        /// The level it is close to.
        level: &'static str,
    },
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<LogFilter, LogFilterError> {
        EnvFilter::builder().parse(text)?;
        for word in text.split(',').map(str::trim) {
            let lower = word.to_lowercase();
            if LEVELS.contains(&lower.as_str()) {
                continue;
            }
            let close = |level: &&&str| strsim::damerau_levenshtein(level, &lower) == 1;
            if let Some(level) = LEVELS.iter().find(close) {
                return Err(LogFilterError::Level {
                    written: word.to_owned(),
                    level,
                });
            }
        }
        Ok(LogFilter(text.to_owned()))
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text when stderr is a terminal, else JSON.
    Auto,
    /// One line of text.
    Text,
    /// One JSON object on a line.
    Json,
}

/// Not a name of a [`LogFormat`].
#[derive(Debug, thiserror::Error)]
#[error("unknown format")]
pub struct LogFormatError;

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<LogFormat, LogFormatError> {
        match text {
            "auto" => Ok(LogFormat::Auto),
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(LogFormatError),
        }
    }
}

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse. [`LogFilter`] has been checked, so this is not expected.
    #[error("RUST_LOG cannot be used: {0}")]
    Filter(#[from] ParseError),
    /// A subscriber or a logger is installed already.
    #[error("logging was started twice: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts logging for the whole process and turns panics into log lines. Call once, from `main`,
/// before anything that logs.
///
/// # Errors
/// Something else has installed a subscriber or logger.
pub fn init(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let outputs = vec![log_lines(settings.format, terminal, std::io::stderr)];
    subscriber(&settings.filter, outputs)?.try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Every output behind one filter.
fn subscriber(
    filter: &LogFilter,
    outputs: Vec<Output>,
) -> Result<impl Subscriber + Send + Sync, ParseError> {
    let filter = EnvFilter::builder().parse(&filter.0)?;
    Ok(Registry::default().with(outputs).with(filter))
}

/// Log lines to `writer`; dates are RFC 3339 in UTC.
fn log_lines<W>(format: LogFormat, terminal: bool, writer: W) -> Output
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match (format, terminal) {
        (LogFormat::Json, _) | (LogFormat::Auto, false) => layer.json().flatten_event(true).boxed(),
        // The layer's own choice of colours respects NO_COLOR.
        (LogFormat::Text | LogFormat::Auto, true) => layer.boxed(),
        (LogFormat::Text, false) => layer.with_ansi(false).boxed(),
    }
}

/// Logs a panic where it happens. What it means for the process is the supervisor's business.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("not a text");
    let location = panic.location().map(ToString::to_string);
    let thread = std::thread::current().name().map(str::to_owned);
    // Captured only when RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(location, thread, backtrace, "panic: {message}");
}

#[cfg(test)]
mod tests;
