//! What `/readyz` says of a consumer.

use service::{Readiness, ReadinessIssues};

/// The checks of a consumer, which all of its tasks feed. Clones feed the same.
#[derive(Debug, Clone)]
pub struct Health {
    pub(crate) kafka: ReadinessIssues,
    pub(crate) postgres: ReadinessIssues,
    /// Partitions that make no progress.
    pub(crate) progress: ReadinessIssues,
}

impl Health {
    /// Adds the checks; they are not ready before the consumer says so.
    pub fn new(readiness: &Readiness) -> Self {
        let issues = |name| ReadinessIssues::new(readiness.check(name));
        Self {
            kafka: issues("kafka"),
            postgres: issues("postgres"),
            progress: issues("progress"),
        }
    }
}
