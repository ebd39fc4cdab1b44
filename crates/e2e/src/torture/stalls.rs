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

/// The longest stalls of orders and cancellations, by kind of fault; the key "none" is for the time
/// before the first.
pub(crate) async fn stalls(
    sql: &Client,
    happened: &[Happened],
) -> Result<BTreeMap<String, Stalls>> {
    let rows = sql.query(TIMES, &[&GROUP]).await?;
    let times = rows.iter().map(|row| Times {
        written: row.get(0),
        published: row.get(1),
        applied: row.get(2),
    });
    Ok(by_kind(happened, times))
}

const TIMES: &str = "
    select extract(epoch from e.created_at)::float8, extract(epoch from p.processed_at)::float8,
           extract(epoch from i.processed_at)::float8
    from outbox_event e join outbox_published p using (id) join inbox i using (event_id)
    where e.source = '/order-api' and i.consumer_group = $1";

fn by_kind(happened: &[Happened], times: impl Iterator<Item = Times>) -> BTreeMap<String, Stalls> {
    let begins: Vec<f64> = happened.iter().map(|h| epoch(h.begun)).collect();
    let mut by_kind: BTreeMap<String, Stalls> = BTreeMap::new();
    for fault in happened {
        by_kind.entry(fault.kind.clone()).or_default().faults += 1;
    }
    for times in times {
        let kind = |until| match blamed(&begins, times.written, until) {
            Some(place) => happened[place].kind.clone(),
            None => "none".to_owned(),
        };
        let wait = |until: f64| Duration::from_secs_f64((until - times.written).max(0.0));
        let stalls = by_kind.entry(kind(times.published)).or_default();
        stalls.published = stalls.published.max(wait(times.published));
        let stalls = by_kind.entry(kind(times.applied)).or_default();
        stalls.applied = stalls.applied.max(wait(times.applied));
    }
    by_kind
}

/// The fault in whose time, from its begin to that of the next one, the most of a wait was.
fn blamed(begins: &[f64], from: f64, until: f64) -> Option<usize> {
    let first = begins.partition_point(|begin| *begin <= from);
    let last = begins.partition_point(|begin| *begin < until);
    // The place behind that of a fault; 0 is the time before all of them.
    let share = |place: usize| {
        let begin = if place == first {
            from
        } else {
            begins[place - 1]
        };
        let end = if place == last { until } else { begins[place] };
        end - begin
    };
    let places = first..=last.max(first);
    let most = places.max_by(|one, other| share(*one).total_cmp(&share(*other)));
    most.and_then(|place| place.checked_sub(1))
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
        let begins = [10.0, 20.0, 30.0];
        assert_eq!(blamed(&begins, 1.0, 2.0), None);
        assert_eq!(blamed(&begins, 11.0, 12.0), Some(0));
        assert_eq!(blamed(&begins, 19.0, 25.0), Some(1));
        assert_eq!(blamed(&begins, 9.0, 10.5), None);
        assert_eq!(blamed(&begins, 18.0, 50.0), Some(2));
        assert_eq!(blamed(&begins, 31.0, 31.0), Some(2));
        assert_eq!(blamed(&[], 1.0, 2.0), None);
    }
}
