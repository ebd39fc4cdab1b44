//! Waiting at the end until nothing is on its way any more.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::deployment::GROUP;
use crate::eventually::{Seen, eventually_within};
use crate::torture::servers::connect;
use crate::torture::world::World;

/// Far above the minute that P11 gives: the machine may have more to do.
const WITHIN: Duration = Duration::from_mins(3);
const PAUSE: Duration = Duration::from_millis(500);

/// Events to be published, and events to be applied.
const MISSING: &str = "
    select (select count(*) from outbox where state <> 'published'),
           (select count(*) from outbox_event e
            where e.topic in ('order.created', 'order.cancelled')
              and not exists (select from inbox i
                              where i.consumer_group = $1 and i.event_id = e.event_id))";

/// Returns once every event is published and has had its effect and all instances are ready, with
/// the time that it took.
pub(crate) async fn drain(world: &mut World) -> Result<Duration> {
    let begun = Instant::now();
    let sql = connect(world.postgres.port()).await?;
    eventually_within("everything to be done", WITHIN, PAUSE, async || {
        world.services.look_after()?;
        let row = sql.query_one(MISSING, &[&GROUP]).await?;
        let (unpublished, unapplied): (i64, i64) = (row.get(0), row.get(1));
        let not_ready = world.services.not_ready().await;
        if unpublished == 0 && unapplied == 0 && not_ready.is_empty() {
            return Ok(Seen::Done(()));
        }
        Ok(Seen::NotYet(format!(
            "{unpublished} events are not published, {unapplied} have no effect; not ready: {}",
            if not_ready.is_empty() {
                "none".to_owned()
            } else {
                not_ready.join("; ")
            }
        )))
    })
    .await?;
    Ok(begun.elapsed())
}
