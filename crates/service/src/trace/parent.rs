//! A place in a trace, as the W3C's Trace Context writes it
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>). Pure.

use std::fmt;
use std::str::FromStr;

/// The header that carries it, in HTTP and in records.
pub const TRACEPARENT: &str = "traceparent";

/// Flag of a trace that somebody records.
const SAMPLED: u8 = 1;

/// A trace and one span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) flags: u8,
}

/// A text that is no traceparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent as in W3C Trace Context")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// A span without a record of it: below `parent`, or the first of a new trace.
    pub fn below(parent: Option<Self>) -> Self {
        let begin = || Self {
            trace: rand::random_range(1..=u128::MAX),
            span: 0,
            flags: SAMPLED,
        };
        Self {
            // Zero means invalid.
            span: rand::random_range(1..=u64::MAX),
            ..parent.unwrap_or_else(begin)
        }
    }

    /// The trace, as in logs and in other systems.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// Whether somebody records the trace.
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of a header; `None` when it is malformed, since a trace is no reason to refuse
    /// anything.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// Versions after 00 may append fields; what is known of them stays where it is.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace = hex(fields.next()?, 32)?;
        let span = u64::try_from(hex(fields.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(fields.next()?, 2)?).ok()?;
        let whole = version != 0 || fields.next().is_none();
        (version != 0xff && trace != 0 && span != 0 && whole).then_some(Self {
            trace,
            span,
            flags: flags & SAMPLED,
        })
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        Self::parse(text).ok_or(InvalidTraceParent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, flags } = self;
        write!(f, "00-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

/// Lower case only, as the recommendation demands.
fn hex(text: &str, length: usize) -> Option<u128> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (digits && text.len() == length)
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn it_reads_back_as_it_was_written() {
        let parent: TraceParent = PARENT.parse().unwrap();
        assert_eq!(parent.to_string(), PARENT);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled());
        let other = PARENT.replace("-01", "-00").parse::<TraceParent>().unwrap();
        assert!(!other.is_sampled());
        let later = format!("{}-more", PARENT.replacen("00", "01", 1));
        assert_eq!(later.parse(), Ok(parent));
    }

    #[test]
    fn what_is_below_has_a_span_of_its_own() {
        let parent: TraceParent = PARENT.parse().unwrap();
        let below = TraceParent::below(Some(parent));
        assert_eq!((below.trace, below.flags), (parent.trace, parent.flags));
        assert_ne!(below.span, parent.span);
        assert!(TraceParent::parse(&TraceParent::below(None).to_string()).is_some());
    }

    #[test]
    fn what_is_malformed_is_none() {
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &format!("{PARENT}-more"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace("4bf9", "4bf"),
        ] {
            assert_eq!(TraceParent::from_header(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(TraceParent::from_header(&[0xff; 55]), None);
    }
}
