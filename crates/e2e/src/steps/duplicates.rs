//! A record that comes again has no second effect.

use anyhow::{Context, Result, ensure};

use crate::deployment::{Deployment, GROUP, Service, sum};
use crate::eventually::{Seen, eventually};
use crate::world::World;

const COUNTER: &str = "inbox_duplicates";

/// Writes an order's record twice more, once to its partition and once to another.
pub(crate) async fn are_refused(world: &mut World, deployment: &impl Deployment) -> Result<String> {
    let order = world.place("e2e-duplicate", 3).await?;
    world.settle().await?;
    let before = sum(&deployment.metrics(Service::Consumer).await?, COUNTER)?;

    let key = order.id.to_string();
    let records = world.topic.read().await?;
    let original = records.iter().find(|placed| placed.key() == key.as_bytes());
    let original = original.context("the order is not in Kafka")?.clone();
    let home = original.partition;
    let elsewhere = (home + 1) % world.topic.partition_count();
    for partition in [home, elsewhere] {
        let offset = world.topic.write(partition, original.copy()).await?;
        ensure!(
            (partition, offset) != (home, original.record.offset),
            "Kafka gave a copy the place of the original"
        );
        let what = format!("the copy at {partition}/{offset} to be consumed");
        eventually(&what, async || {
            let next = world.books.next_offset(partition).await?;
            Ok(if next > offset {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("next offset is {next}"))
            })
        })
        .await?;
    }

    world.check_books().await?;
    let events = world.books.events(&key).await?;
    ensure!(
        events.len() == 1 && events[0].inbox.len() == 1 && events[0].inbox[0].0 == GROUP,
        "order {key} with two copies: {events:?}"
    );
    let what = format!("{COUNTER} to grow by 2 and the copies to be warned of");
    eventually(&what, async || {
        let counted = sum(&deployment.metrics(Service::Consumer).await?, COUNTER)? - before;
        let warnings = warnings(
            &deployment.logs(Service::Consumer).await?,
            &events[0].event_id,
        );
        Ok(if (counted, warnings) == (2, 2) {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("counted {counted}, warned of {warnings}"))
        })
    })
    .await?;
    Ok(
        "a record that came twice more, also on another partition, had no effect: one inbox row, \
         product_sales unchanged, two warnings"
            .to_owned(),
    )
}

fn warnings(logs: &[(String, String)], event_id: &str) -> usize {
    logs.iter()
        .flat_map(|(_, text)| text.lines())
        .filter(|line| line.contains("WARN") && line.contains(event_id))
        .count()
}
