//! P11 at the end of all that was done to the services: nothing waits for a cause that is gone, and
//! none of them says that something does.

use anyhow::{Context, Result};

use crate::deployment::{Deployment, Service};
use crate::eventually::{Seen, eventually};
use crate::world::World;

/// Of a relay, in seconds.
const OLDEST: &str = "outbox_oldest_pending_age_seconds";
/// Of a consumer, in records, by partition.
const LAG: &str = "inbox_lag";

/// No event waits, the oldest that waits has waited for no time, no record is to be consumed, and
/// every process is ready.
pub(crate) async fn nothing_waits(world: &World, deployment: &impl Deployment) -> Result<String> {
    eventually("nothing to wait", async || {
        let waiting = world.books.waiting().await?;
        let oldest = largest(deployment, Service::Relay, OLDEST).await?;
        let lag = largest(deployment, Service::Consumer, LAG).await?;
        Ok(if waiting == 0 && oldest == 0.0 && lag == 0.0 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!(
                "{waiting} events wait, the oldest for {oldest} s, and {lag} records of a partition"
            ))
        })
    })
    .await?;
    for service in Service::ALL {
        eventually(&format!("every {service} to be ready"), async || {
            let reports = deployment.ask(service, "/readyz").await?;
            let running = reports.len();
            let unready = reports.into_iter().find(|(status, _)| *status != 200);
            Ok(match unready {
                None if running == service.instances() => Seen::Done(()),
                None => Seen::NotYet(format!("{running} run")),
                Some((_, report)) => Seen::NotYet(report),
            })
        })
        .await?;
    }
    let expected: usize = Service::ALL.map(Service::instances).iter().sum();
    Ok(format!(
        "after all of this nothing waits, and all {expected} processes are ready"
    ))
}

/// The largest value of a gauge over its labels and all instances.
async fn largest(deployment: &impl Deployment, service: Service, gauge: &str) -> Result<f64> {
    let metrics = deployment.metrics(service).await?;
    let values = metrics.iter().flat_map(|text| values(text, gauge));
    let largest = values.reduce(f64::max);
    largest.with_context(|| format!("/metrics of {service} has no {gauge}"))
}

fn values(text: &str, gauge: &str) -> Vec<f64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(gauge));
    lines
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_under_all_its_labels() {
        let text = "# HELP lag Records.\nlag{p=\"1 a\"} 3\nlag{p=\"2\"} 0.5\nlag_max 9\nage 0.0\n";
        assert_eq!(values(text, "lag"), [3.0, 0.5]);
        assert_eq!(values(text, "age"), [0.0]);
    }
}
