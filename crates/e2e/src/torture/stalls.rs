//! For how long orders waited while something was wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use time::OffsetDateTime;
use tokio_postgres::Client;

use crate::deployment::GROUP;
use crate::torture::world::Happened;

/// Of one kind of fault.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Stalls {
    /// How often there was one.
    pub(crate) faults: usize,
    /// From the begin of the transaction of an event of the API until it was recorded as published.
    pub(crate) published: Duration,
    /// The same until the transaction of its effect.
    pub(crate) applied: Duration,
}

/// When an event was written, published and applied, in seconds of the epoch.
#[derive(Debug, Clone, Copy)]
struct Times {
    written: f64,
    published: f64,
    applied: f64,
}

/// What orders and cancellations waited for.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// The longest, by kind of fault; "none" is for the time before the first.
    pub(crate) by_kind: BTreeMap<String, Stalls>,
    /// The longest part of a wait in which nothing was wrong.
    pub(crate) calm: Duration,
}

impl Waits {
    pub(crate) async fn load(sql: &Client, happened: &[Happened]) -> Result<Self> {
        let rows = sql.query(TIMES, &[&GROUP]).await?;
        let times = rows.iter().map(|row| Times {
            written: row.get(0),
            published: row.get(1),
            applied: row.get(2),
        });
        let mut waits = Self::default();
        for fault in happened {
            let stalls = waits.by_kind.entry(fault.kind.clone()).or_default();
            stalls.faults += 1;
        }
        let faults = Faults::new(happened);
        for times in times {
            waits.add(happened, &faults, times);
        }
        Ok(waits)
    }

    fn add(&mut self, happened: &[Happened], faults: &Faults, times: Times) {
        let kind = |until| match faults.blamed(times.written, until) {
            Some(place) => happened[place].kind.clone(),
            None => "none".to_owned(),
        };
        let wait = |until: f64| seconds(until - times.written);
        let stalls = self.by_kind.entry(kind(times.published)).or_default();
        stalls.published = stalls.published.max(wait(times.published));
        let stalls = self.by_kind.entry(kind(times.applied)).or_default();
        stalls.applied = stalls.applied.max(wait(times.applied));
        let calm = seconds(faults.calm(times.written, times.applied));
        self.calm = self.calm.max(calm);
    }
}

const TIMES: &str = "
    select extract(epoch from e.created_at)::float8, extract(epoch from p.processed_at)::float8,
           extract(epoch from i.processed_at)::float8
    from outbox_event e join outbox_published p using (id) join inbox i using (event_id)
    where e.source = '/order-api' and i.consumer_group = $1";

/// When faults began and ended, in the order of their begins.
struct Faults(Vec<(f64, f64)>);

impl Faults {
    fn new(happened: &[Happened]) -> Self {
        let times = happened.iter().map(|h| (epoch(h.begun), epoch(h.ended)));
        Self(times.collect())
    }

    /// The fault in whose time, from its begin to that of the first one after its end, the most of
    /// a wait was.
    fn blamed(&self, from: f64, until: f64) -> Option<usize> {
        let share = |place: usize| {
            let (begun, ended) = self.0[place];
            let mut later = self.0[place + 1..].iter().map(|(begun, _)| *begun);
            let over = later.find(|next| *next >= ended).unwrap_or(f64::INFINITY);
            until.min(over) - from.max(begun)
        };
        let begun = self.0.partition_point(|(begun, _)| *begun <= until);
        // One after the other, two at a time at most: earlier ones have no share.
        let near = begun.saturating_sub(self.near(from, begun))..begun;
        let before_all = self.0.first().map_or(0.0, |(first, _)| first - from);
        let most = near.max_by(|one, other| share(*one).total_cmp(&share(*other)));
        most.filter(|place| share(*place) > before_all.max(-f64::EPSILON))
    }

    /// How many of the first `begun` may have to do with a wait from then on.
    fn near(&self, from: f64, begun: usize) -> usize {
        let before = self.0.partition_point(|(begun, _)| *begun <= from);
        begun - before + 3
    }

    /// How much of a time no fault lasted.
    fn calm(&self, from: f64, until: f64) -> f64 {
        let begun = self.0.partition_point(|(begun, _)| *begun <= until);
        let near = begun.saturating_sub(self.near(from, begun))..begun;
        let (mut calm, mut at) = (0.0, from);
        for (begun, ended) in &self.0[near] {
            calm += (begun - at).max(0.0);
            at = at.max(*ended);
        }
        calm + (until - at).max(0.0)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds are exact enough")]
fn epoch(time: OffsetDateTime) -> f64 {
    time.unix_timestamp_nanos() as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_blamed_on_the_fault_in_whose_time_the_most_of_it_was() {
        let faults = Faults(vec![(10.0, 12.0), (20.0, 28.0), (22.0, 29.0), (30.0, 31.0)]);
        assert_eq!(faults.blamed(1.0, 2.0), None);
        assert_eq!(faults.blamed(9.0, 10.5), None);
        assert_eq!(faults.blamed(11.0, 12.0), Some(0));
        assert_eq!(faults.blamed(15.0, 16.0), Some(0));
        assert_eq!(faults.blamed(19.0, 25.0), Some(1));
        assert_eq!(faults.blamed(21.0, 29.5), Some(1));
        assert_eq!(faults.blamed(18.0, 60.0), Some(3));
        assert_eq!(Faults(Vec::new()).blamed(1.0, 2.0), None);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these are exact")]
    fn calm_is_what_no_fault_covers() {
        let faults = Faults(vec![(10.0, 12.0), (20.0, 28.0), (22.0, 29.0), (30.0, 31.0)]);
        assert_eq!(faults.calm(1.0, 2.0), 1.0);
        assert_eq!(faults.calm(11.0, 13.0), 1.0);
        assert_eq!(faults.calm(9.0, 40.0), 1.0 + 8.0 + 1.0 + 9.0);
        assert_eq!(faults.calm(23.0, 24.0), 0.0);
        assert_eq!(faults.calm(40.0, 41.0), 1.0);
    }
}
