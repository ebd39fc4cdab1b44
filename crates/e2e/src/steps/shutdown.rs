//! SIGTERM ends every process in order.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::deployment::{Deployment, Service};

const WITHIN: Duration = Duration::from_secs(10);

/// Asks all to end.
pub(crate) async fn is_graceful(deployment: &mut impl Deployment) -> Result<String> {
    let exits = deployment.stop().await?;
    let expected: usize = Service::ALL.map(Service::instances).iter().sum();
    ensure!(exits.len() == expected, "only {exits:?} were running");
    for exit in &exits {
        ensure!(
            exit.status == Some(0) && exit.took <= WITHIN,
            "{} ended with status {:?} after {:?}",
            exit.instance,
            exit.status,
            exit.took
        );
    }
    let slowest = exits.iter().map(|exit| exit.took).max().unwrap_or_default();
    Ok(format!(
        "SIGTERM: all {expected} processes exit 0, the last after {:.2} s",
        slowest.as_secs_f64()
    ))
}
