//! A collector of spans: its address, protocol, headers and trusted certificate authorities.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use crate::Secret;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    pub(super) endpoint: Endpoint,
    pub(super) protocol: Protocol,
    pub(super) headers: Secret<Headers>,
    /// Trusted for an https endpoint.
    pub(super) roots: Roots,
}

/// Its address: `http` or `https`, a host, and with OTLP over HTTP a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint(Url);

/// An endpoint that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("not a URL")]
    Syntax,
    #[error("only http and https are supported")]
    Scheme,
    #[error("must not have a user, a query or a fragment")]
    Surplus,
}

impl Endpoint {
    pub(super) fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub(super) fn has_path(&self) -> bool {
        self.0.path() != "/"
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The address of its traces, as OTLP over HTTP derives it from the endpoint.
    pub(super) fn traces(&self) -> Url {
        let mut url = self.0.clone();
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text).map_err(|_| EndpointError::Syntax)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EndpointError::Scheme);
        }
        let user = !url.username().is_empty() || url.password().is_some();
        if user || url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointError::Surplus);
        }
        Ok(Self(url))
    }
}

/// How OTLP is transported, by OpenTelemetry's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `http/protobuf`.
    Http,
    /// `grpc`.
    Grpc,
}

/// Not a name of a [`Protocol`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown protocol")]
pub(super) struct ProtocolError;

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "http/protobuf" => Ok(Self::Http),
            "grpc" => Ok(Self::Grpc),
            _ => Err(ProtocolError),
        }
    }
}

/// Additional headers of each request, such as a token.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Headers(HeaderMap);

/// Headers that cannot be sent. Never quotes the text, which is a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadersError {
    #[error("an entry is not name=value")]
    Syntax,
    #[error("a name is not a valid header name")]
    Name,
    #[error("a name is reserved: each request sets that header itself")]
    Reserved,
    #[error("a value is not valid in a header")]
    Value,
}

impl Headers {
    pub(super) fn map(&self) -> &HeaderMap {
        &self.0
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers(not shown)")
    }
}

impl FromStr for Headers {
    type Err = HeadersError;

    /// `name=value` with commas between them, values percent-encoded where they have to be.
    fn from_str(text: &str) -> Result<Self, HeadersError> {
        const OWN: [HeaderName; 6] = [
            CONNECTION,
            CONTENT_LENGTH,
            CONTENT_TYPE,
            HOST,
            TE,
            TRANSFER_ENCODING,
        ];
        let mut headers = HeaderMap::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(HeadersError::Syntax)?;
            let name = HeaderName::from_str(name.trim()).map_err(|_| HeadersError::Name)?;
            if OWN.contains(&name) || name.as_str().starts_with("grpc-") {
                return Err(HeadersError::Reserved);
            }
            let value = percent_decode_str(value.trim()).decode_utf8();
            let value = value.map_err(|_| HeadersError::Value)?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| HeadersError::Value)?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self(headers))
    }
}

/// The trusted certificate authorities.
#[derive(Clone)]
pub(super) struct Roots(Arc<RootCertStore>);

/// Certificate authorities that cannot be loaded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RootsError {
    #[error("cannot read the file: {0}")]
    Unreadable(String),
    #[error("the file contains no certificate in PEM")]
    Empty,
    #[error("the file contains an invalid certificate")]
    Broken,
    #[error("no certificate authorities are installed, and an https endpoint needs one")]
    NoSystem,
}

impl Default for Roots {
    /// None is trusted.
    fn default() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}

impl Roots {
    pub(super) fn of_system() -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        let (added, _) =
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err(RootsError::NoSystem);
        }
        Ok(Self(Arc::new(store)))
    }

    fn of_file(path: &Path) -> Result<Self, RootsError> {
        let pem = std::fs::read(path).map_err(|error| RootsError::Unreadable(error.to_string()))?;
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|_| RootsError::Broken)?;
            store.add(certificate).map_err(|_| RootsError::Broken)?;
        }
        if store.is_empty() {
            return Err(RootsError::Empty);
        }
        Ok(Self(Arc::new(store)))
    }

    pub(super) fn store(&self) -> &Arc<RootCertStore> {
        &self.0
    }
}

/// The name of a file.
impl FromStr for Roots {
    type Err = RootsError;

    fn from_str(text: &str) -> Result<Self, RootsError> {
        Self::of_file(Path::new(text))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.0.len())
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Eq for Roots {}
