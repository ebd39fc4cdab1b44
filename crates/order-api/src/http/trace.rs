//! Which request this is, for logs and for what follows from it: its id, and its place in a trace as
//! the W3C's Trace Context has it (https://www.w3.org/TR/trace-context/). Pure.

use actix_web::http::header::HeaderMap;
use service::trace::{TRACEPARENT, TraceParent};

/// The request's id, given by the client or made here.
pub(super) const REQUEST_ID: &str = "x-request-id";
const TRACESTATE: &str = "tracestate";

/// What is longer is replaced: it ends up in every log line.
const MAX_REQUEST_ID: usize = 128;
/// What the recommendation asks to be passed on at least.
const MAX_TRACESTATE: usize = 512;

/// A request's place in the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestContext {
    pub(super) request_id: String,
    /// The request's own span.
    pub(super) trace: TraceParent,
    /// Vendors' additions; passed on as they came.
    tracestate: Option<String>,
}

/// The client's span, if it sent a valid one.
pub(super) fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    single(headers, TRACEPARENT)?.parse().ok()
}

/// A header that came once, as text.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name);
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Vendors' additions. They may come in several headers, which count as one list.
fn tracestate(headers: &HeaderMap) -> Option<String> {
    let lists = headers.get_all(TRACESTATE).map(|list| list.to_str().ok());
    let lists: Vec<&str> = lists.collect::<Option<_>>()?;
    Some(lists.join(",")).filter(|state| (1..=MAX_TRACESTATE).contains(&state.len()))
}

impl RequestContext {
    /// Takes over what the client sent as far as it is valid, and makes up the rest. `trace` is the
    /// request's span, below the client's if there is one.
    pub(super) fn new(headers: &HeaderMap, trace: TraceParent) -> Self {
        let valid_id = |id: &&str| {
            (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
        };
        let request_id = single(headers, REQUEST_ID).filter(valid_id);
        let goes_on = parent(headers).is_some();
        Self {
            request_id: request_id.map_or_else(|| trace.trace_id(), str::to_owned),
            trace,
            tracestate: tracestate(headers).filter(|_| goes_on),
        }
    }

    /// The headers that carry the trace into an event.
    pub(super) fn event_headers(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let parent = (TRACEPARENT.to_owned(), self.trace.to_string());
        let state = self.tracestate.iter();
        std::iter::once(parent).chain(state.map(|state| (TRACESTATE.to_owned(), state.clone())))
    }
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
        RequestContext::new(&map, TraceParent::below(parent(&map)))
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
    }

    #[test]
    fn additions_that_come_in_several_headers_are_one_list() {
        let of = |states: &[&str]| {
            let states = states.iter().map(|state| ("tracestate", *state));
            let headers: Vec<_> = states.chain([("traceparent", PARENT)]).collect();
            of(&headers).tracestate
        };
        assert_eq!(of(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(of(&[&"x".repeat(512)]).map(|state| state.len()), Some(512));
        assert_eq!(of(&["a=1", &"x".repeat(512)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_is_no_trace_begins_a_new_one() {
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        for wrong in [&twice[..], &[("traceparent", "00")], &[]] {
            let context = of(&[wrong, &[("tracestate", "a=1")]].concat());
            let headers: Vec<_> = context.event_headers().collect();
            assert_eq!(headers.len(), 1);
            let begun: TraceParent = headers[0].1.parse().unwrap();
            assert_ne!(begun.trace_id(), &PARENT[3..35]);
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
