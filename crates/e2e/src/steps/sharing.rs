//! Instances of one service share its work.

use anyhow::Result;
use domain::{EventType, OrderCancelled, OrderCreated};

use crate::deployment::{Deployment, PARTITIONS, Service, each};
use crate::eventually::{Seen, eventually};

const SLOTS: i64 = 32;
/// That the consumers read.
const TOPICS: [&str; 2] = [OrderCreated::TOPIC, OrderCancelled::TOPIC];

/// Two relays have half of the slots each, two consumers half of the partitions of each topic.
pub(crate) async fn work_is_shared(deployment: &impl Deployment) -> Result<String> {
    halved(deployment, Service::Relay, "outbox_slots_owned", SLOTS).await?;
    for topic in TOPICS {
        let gauge = format!("inbox_partitions_owned{{topic=\"{topic}\"}}");
        halved(deployment, Service::Consumer, &gauge, PARTITIONS.into()).await?;
    }
    Ok(format!(
        "the work is shared: {SLOTS} slots by 2 relays, {PARTITIONS} partitions of each topic by 2 \
         consumers"
    ))
}

async fn halved(
    deployment: &impl Deployment,
    service: Service,
    gauge: &str,
    units: i64,
) -> Result<()> {
    eventually(&format!("{gauge} to be {units} in halves"), async || {
        let owned = each(&deployment.metrics(service).await?, gauge)?;
        Ok(if owned == [units / 2, units / 2] {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{owned:?}"))
        })
    })
    .await
}
