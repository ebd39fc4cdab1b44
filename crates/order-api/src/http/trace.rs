//! Which request this is, for logs and for what follows from it: its id, and its place in a trace as
//! the W3C's Trace Context has it (https://www.w3.org/TR/trace-context/). Pure.

use std::fmt;

use actix_web::http::header::HeaderMap;

/// The request's id, given by the client or made here.
pub(super) const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// What is longer is replaced: it ends up in every log line.
const MAX_REQUEST_ID: usize = 128;
/// What the recommendation asks to be passed on at least.
const MAX_TRACESTATE: usize = 512;
/// Flag of a trace that somebody records.
const SAMPLED: u8 = 1;

/// A request's place in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestContext {
    pub(super) request_id: String,
    pub(super) trace: TraceParent,
    /// Vendors' additions; passed on as they came.
    tracestate: Option<String>,
}

/// A trace and this request's span in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl RequestContext {
    /// Takes over what the client sent as far as it is valid, and makes up the rest.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let single = |name: &str| {
            let mut values = headers.get_all(name);
            let value = values.next()?.to_str().ok()?;
            values.next().is_none().then_some(value)
        };
        let parent = single(TRACEPARENT).and_then(TraceParent::parse);
        let trace = TraceParent {
            // Zero means invalid, and comes up once in the age of the universe.
            span_id: rand::random_range(1..=u64::MAX),
            ..parent.unwrap_or_else(TraceParent::begin)
        };
        let valid_id = |id: &&str| {
            (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
        };
        let request_id = single(REQUEST_ID).filter(valid_id).map(str::to_owned);
        let tracestate = single(TRACESTATE)
            .filter(|state| parent.is_some() && (1..=MAX_TRACESTATE).contains(&state.len()));
        Self {
            request_id: request_id.unwrap_or_else(|| trace.trace_id()),
            trace,
            tracestate: tracestate.map(str::to_owned),
        }
    }

    /// The headers that carry the trace into an event.
    pub(super) fn event_headers(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let parent = (TRACEPARENT.to_owned(), self.trace.to_string());
        let state = self.tracestate.iter();
        std::iter::once(parent).chain(state.map(|state| (TRACESTATE.to_owned(), state.clone())))
    }
}

impl TraceParent {
    fn begin() -> Self {
        Self {
            trace_id: rand::random_range(1..=u128::MAX),
            span_id: 0,
            flags: SAMPLED,
        }
    }

    /// As in logs and in other systems.
    pub(super) fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Versions after 00 may append fields; what is known of them stays where it is.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let span_id = u64::try_from(hex(fields.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(fields.next()?, 2)?).ok()?;
        let whole = version != 0 || fields.next().is_none();
        (version != 0xff && trace_id != 0 && span_id != 0 && whole).then_some(Self {
            trace_id,
            span_id,
            flags: flags & SAMPLED,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
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
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(headers: &[(&'static str, &str)]) -> RequestContext {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            map.append(HeaderName::from_static(name), value);
        }
        RequestContext::of(&map)
    }

    #[test]
    fn a_trace_goes_on_under_a_span_of_its_own() {
        let context = of(&[("traceparent", PARENT), ("tracestate", "a=1,b=2")]);
        assert_eq!(context.trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let headers: Vec<_> = context.event_headers().collect();
        assert!(
            headers[0]
                .1
                .starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
        );
        assert!(headers[0].1.ends_with("-01") && headers[0].1 != PARENT);
        assert_eq!(headers[1], ("tracestate".to_owned(), "a=1,b=2".to_owned()));
        assert!(TraceParent::parse(&format!("{}-more", PARENT.replacen("00", "01", 1))).is_some());
    }

    #[test]
    fn what_is_no_trace_begins_a_new_one() {
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
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
            let context = of(&[("traceparent", wrong), ("tracestate", "a=1")]);
            let headers: Vec<_> = context.event_headers().collect();
            assert_eq!(headers.len(), 1);
            assert!(TraceParent::parse(&headers[0].1).is_some());
        }
    }

    #[test]
    fn a_request_id_is_taken_over_when_a_log_can_bear_it() {
        assert_eq!(of(&[("x-request-id", "abc-1")]).request_id, "abc-1");
        for wrong in ["", "a b", &"x".repeat(129)] {
            let context = of(&[("x-request-id", wrong)]);
            assert_eq!(context.request_id, context.trace.trace_id());
        }
    }
}
