//! The header `Idempotency-Key`: what it may hold, and what its request is known by. Pure.

use actix_web::http::header::HeaderMap;
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// As clients write it.
pub(super) const HEADER: &str = "Idempotency-Key";
/// Says that an answer is one that was given before.
pub(super) const REPLAYED: &str = "Idempotent-Replayed";

/// In characters, which are ASCII and so bytes too.
pub(super) const MAX_LENGTH: usize = 255;

/// The key of a request, if it has one.
///
/// # Errors
/// [`Problem::InvalidValue`] that names the header.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HEADER);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let refused = |reason: String| Problem::InvalidValue {
        field: Some(HEADER),
        reason: format!("{HEADER} {reason}"),
    };
    if values.next().is_some() {
        return Err(refused("must be given once".to_owned()));
    }
    let key = value.as_bytes();
    if key.is_empty() || key.len() > MAX_LENGTH {
        return Err(refused(format!(
            "must be 1 to {MAX_LENGTH} characters long"
        )));
    }
    if !key.iter().all(u8::is_ascii_graphic) {
        return Err(refused(
            "may contain only visible ASCII characters".to_owned(),
        ));
    }
    Ok(Some(String::from_utf8_lossy(key).into_owned()))
}

/// What tells requests under one key apart.
pub(super) fn request_hash(body: &[u8]) -> Vec<u8> {
    Sha256::digest(body).to_vec()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn of(values: &[&[u8]]) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            let name = HeaderName::from_static("idempotency-key");
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        key(&headers)
    }

    #[test]
    fn a_key_is_visible_ascii_of_bounded_length_and_given_once() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[b"a-1"]), Ok(Some("a-1".to_owned())));
        assert!(of(&[&[b'x'; 255]]).is_ok());
        for wrong in [
            &[&b""[..]][..],
            &[&[b'x'; 256][..]],
            &[b"a b"],
            &["\u{e9}".as_bytes()],
            &[b"a", b"a"],
        ] {
            let problem = of(wrong).unwrap_err();
            let Problem::InvalidValue { field, .. } = problem else {
                panic!("{problem:?}");
            };
            assert_eq!(field, Some(HEADER));
        }
    }
}
