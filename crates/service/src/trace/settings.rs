//! Whether, where to and how many spans are sent: OpenTelemetry's own variables, as far as they
//! apply.

use std::str::FromStr;

use opentelemetry_sdk::trace as sdk;

use super::collector::{Collector, Headers, Protocol, Roots};
use crate::{Reader, Secret};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// What is sent where. Nothing by default.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSettings {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, and how it is spoken to; without it no spans are made.
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
            collector: read_collector(reader),
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

/// Reads each variable, then checks their combination.
fn read_collector(reader: &mut Reader<'_>) -> Option<Collector> {
    let protocol: Protocol = reader.value(PROTOCOL);
    let headers: Option<Secret<Headers>> = reader.optional(HEADERS);
    let authorities: Option<Roots> = reader.optional(CERTIFICATE);
    let mut collector = Collector {
        endpoint: reader.optional(ENDPOINT)?,
        protocol,
        headers: headers.unwrap_or_else(|| Secret::new(Headers::default())),
        roots: Roots::default(),
    };
    if protocol == Protocol::Grpc && collector.endpoint.has_path() {
        reader.problem(ENDPOINT, "must not have a path with gRPC");
    }
    match (collector.endpoint.is_tls(), authorities) {
        (true, Some(roots)) => collector.roots = roots,
        (true, None) if reader.is_set(CERTIFICATE) => {}
        (true, None) => match Roots::of_system() {
            Ok(roots) => collector.roots = roots,
            Err(error) => reader.problem(CERTIFICATE, error),
        },
        (false, Some(_)) => {
            let reason = format!("must not be set: the endpoint in {ENDPOINT} is not https");
            reader.problem(CERTIFICATE, reason);
        }
        (false, None) => {}
    }
    Some(collector)
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
