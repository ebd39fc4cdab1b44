//! Whether, where to and how many spans are sent: OpenTelemetry's own variables, as far as they
//! apply.

use std::str::FromStr;

use opentelemetry_sdk::trace as sdk;
use reqwest::Url;

use crate::Reader;

/// What is sent where. Nothing by default.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`; without it no spans are made.
    pub collector: Option<Collector>,
    /// `OTEL_SERVICE_NAME`, if it is not the process's own name.
    pub service_name: Option<String>,
    /// `OTEL_TRACES_SAMPLER`.
    pub sampling: Sampling,
    /// `OTEL_TRACES_SAMPLER_ARG`, from 0 to 1, for the samplings that name a ratio.
    pub ratio: Ratio,
}

impl TraceSettings {
    /// Reads OpenTelemetry's variables.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            collector: reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT"),
            service_name: reader.optional("OTEL_SERVICE_NAME"),
            sampling: reader.value("OTEL_TRACES_SAMPLER"),
            ratio: reader.value("OTEL_TRACES_SAMPLER_ARG"),
        }
    }

    pub(super) fn sampler(&self) -> sdk::Sampler {
        let parent_based = |root| sdk::Sampler::ParentBased(Box::new(root));
        match self.sampling {
            Sampling::AlwaysOn => sdk::Sampler::AlwaysOn,
            Sampling::AlwaysOff => sdk::Sampler::AlwaysOff,
            Sampling::Ratio => sdk::Sampler::TraceIdRatioBased(self.ratio.0),
            Sampling::ParentOrOn => parent_based(sdk::Sampler::AlwaysOn),
            Sampling::ParentOrOff => parent_based(sdk::Sampler::AlwaysOff),
            Sampling::ParentOrRatio => parent_based(sdk::Sampler::TraceIdRatioBased(self.ratio.0)),
        }
    }
}

/// Where a collector takes spans: OTLP over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector(Url);

/// An endpoint that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectorError {
    #[error("not a URL")]
    Syntax,
    #[error("only http is supported; send to a local collector that adds TLS")]
    Scheme,
    #[error("must not have a user, a query or a fragment")]
    Surplus,
}

impl Collector {
    /// The address of its traces, as OTLP derives it from the endpoint.
    pub(super) fn traces(&self) -> Url {
        let mut url = self.0.clone();
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let url = Url::parse(text).map_err(|_| CollectorError::Syntax)?;
        if url.scheme() != "http" {
            return Err(CollectorError::Scheme);
        }
        let user = !url.username().is_empty() || url.password().is_some();
        if user || url.query().is_some() || url.fragment().is_some() {
            return Err(CollectorError::Surplus);
        }
        Ok(Self(url))
    }
}

/// Which spans are sent, by OpenTelemetry's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    AlwaysOn,
    AlwaysOff,
    Ratio,
    /// As the parent says; all that have none.
    ParentOrOn,
    /// As the parent says; none that have none.
    ParentOrOff,
    /// As the parent says; a share of those that have none.
    ParentOrRatio,
}

/// Not a name of a [`Sampling`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown sampler")]
pub struct SamplingError;

impl FromStr for Sampling {
    type Err = SamplingError;

    fn from_str(text: &str) -> Result<Self, SamplingError> {
        Ok(match text {
            "always_on" => Self::AlwaysOn,
            "always_off" => Self::AlwaysOff,
            "traceidratio" => Self::Ratio,
            "parentbased_always_on" => Self::ParentOrOn,
            "parentbased_always_off" => Self::ParentOrOff,
            "parentbased_traceidratio" => Self::ParentOrRatio,
            _ => return Err(SamplingError),
        })
    }
}

/// A share of the traces, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

/// Not a [`Ratio`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be from 0 to 1")]
pub struct RatioError;

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        let ratio: f64 = text.parse().map_err(|_| RatioError)?;
        (0.0..=1.0)
            .contains(&ratio)
            .then_some(Self(ratio))
            .ok_or(RatioError)
    }
}
