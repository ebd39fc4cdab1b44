//! Taking in a request's body: the right kind, not too much, not too slowly. What is in it is not
//! looked at here.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::web::Payload;
use futures::StreamExt;

use super::limits::MAX_BODY;
use super::problem::Problem;

/// Time for the body to arrive. Together with the time the store has this stays below the 5 s that
/// any request may take.
const ARRIVES_WITHIN: Duration = Duration::from_millis(1_500);

/// The body of a request that says it is JSON.
pub(super) async fn json_body(request: &HttpRequest, payload: Payload) -> Result<Vec<u8>, Problem> {
    if !text(request, &CONTENT_TYPE).is_some_and(is_json) {
        return Err(Problem::UnsupportedMediaType {
            reason: "the content type must be application/json",
        });
    }
    let mut codings = request.headers().get_all(CONTENT_ENCODING);
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::UnsupportedMediaType {
            reason: "the body must not be compressed",
        });
    }
    let declared = text(request, &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(Problem::BodyTooLarge);
    }
    tokio::time::timeout(ARRIVES_WITHIN, collect(payload))
        .await
        .map_err(|_| Problem::BodyTooSlow)?
}

async fn collect(mut payload: Payload) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| Problem::MalformedJson {
            reason: format!("the body ended early: {error}"),
        })?;
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Problem::BodyTooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn text<'r>(request: &'r HttpRequest, name: &HeaderName) -> Option<&'r str> {
    request.headers().get(name)?.to_str().ok()
}

/// `application/json` or `application/…+json`, with any parameters: JSON is always UTF-8.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    let subtype = subtype.to_ascii_lowercase();
    let is_suffixed = subtype
        .strip_suffix("+json")
        .is_some_and(|name| !name.is_empty());
    kind.eq_ignore_ascii_case("application") && (subtype == "json" || is_suffixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_type() {
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.shop.order+json",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in [
            "",
            "json",
            "text/json",
            "application/jsonl",
            "application/+json",
        ] {
            assert!(!is_json(other), "{other}");
        }
    }
}
