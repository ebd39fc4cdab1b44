//! SIGKILL under load: nothing is lost, what is written stays in order, and each effect happens
//! once.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::deployment::{Deployment, Service};
use crate::eventually::{Seen, eventually};
use crate::load::Load;
use crate::steps::sharing;
use crate::world::World;

/// What has to be through before anything is killed, and what has to be accepted after it.
const ENOUGH: i64 = 100;

/// Kills every relay in the middle of a burst and starts them again when it is over.
pub(crate) async fn of_all_relays(
    world: &mut World,
    deployment: &mut impl Deployment,
) -> Result<String> {
    let before = Mark::set(world).await?;
    let load = Load::start(world, "e2e-burst").await?;
    published_since(world, &before).await?;
    deployment
        .kill(Service::Relay, Service::Relay.instances())
        .await?;
    let accepted = load.more(ENOUGH).await?;
    load.finish(world).await?;
    let waiting = world.books.counts().await?.pending;
    ensure!(
        waiting >= ENOUGH,
        "{waiting} events wait, though {accepted} orders were accepted while there was no relay"
    );
    deployment.restart(Service::Relay).await?;
    world.settle().await?;
    world.check_books().await?;
    let (events, copies) = before.events_and_copies(world).await?;
    Ok(format!(
        "all relays killed (SIGKILL) in a burst of {events} events and started again: {waiting} \
         were waiting, none is lost, {copies} came twice, each effect once"
    ))
}

/// Kills one relay and one consumer in the middle of a burst; the others take over.
pub(crate) async fn of_one_of_each(
    world: &mut World,
    deployment: &mut impl Deployment,
) -> Result<String> {
    let before = Mark::set(world).await?;
    let load = Load::start(world, "e2e-takeover").await?;
    published_since(world, &before).await?;
    deployment.kill(Service::Relay, 1).await?;
    deployment.kill(Service::Consumer, 1).await?;
    let killed = Instant::now();
    load.more(ENOUGH).await?;
    load.finish(world).await?;
    world.settle().await?;
    let took = killed.elapsed().as_secs_f64();
    world.check_books().await?;
    let (events, copies) = before.events_and_copies(world).await?;
    deployment.restart(Service::Relay).await?;
    deployment.restart(Service::Consumer).await?;
    sharing::work_is_shared(deployment).await?;
    Ok(format!(
        "one relay and one consumer killed in a burst of {events} events: the others took over and \
         were done {took:.1} s later, {copies} came twice, each effect once"
    ))
}

/// Where things stood before a burst.
struct Mark {
    events: i64,
    published: i64,
    records: usize,
}

impl Mark {
    async fn set(world: &mut World) -> Result<Self> {
        Ok(Self {
            events: world.account.events(),
            published: world.books.counts().await?.published,
            records: world.topic.read().await?.len(),
        })
    }

    /// How many events there are since, and how many records more than those.
    async fn events_and_copies(&self, world: &mut World) -> Result<(i64, i64)> {
        let events = world.account.events() - self.events;
        let records = world.topic.read().await?.len() - self.records;
        Ok((events, i64::try_from(records)? - events))
    }
}

async fn published_since(world: &World, before: &Mark) -> Result<()> {
    eventually("the burst to be under way", async || {
        let published = world.books.counts().await?.published - before.published;
        Ok(if published >= ENOUGH {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{published} published"))
        })
    })
    .await
}
