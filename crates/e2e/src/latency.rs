//! How long an order takes to its effect, one at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::eventually::{PATIENCE, Seen, eventually_within};
use crate::world::World;

const ORDERS: usize = 25;
/// The median must be below.
const GOAL: Duration = Duration::from_millis(100);
/// Between two looks into the inbox; adds to what is measured.
const PAUSE: Duration = Duration::from_millis(1);

/// Places single orders, each once the one before has had its effect.
///
/// What is checked is an upper bound of commit to inbox commit: by the client's clock, from sending
/// the request, which is before the order's commit, until another connection sees the inbox row,
/// which is after that row's commit. By Postgres' own stamps, `outbox_event.created_at` to
/// `inbox.processed_at`, it is from the begin of one transaction to the begin of the other.
pub(crate) async fn measure(world: &mut World) -> Result<String> {
    let (mut bounds, mut stamps) = (Vec::new(), Vec::new());
    for _ in 0..ORDERS {
        let begun = Instant::now();
        let order = world.place("e2e-single", 1).await?;
        let what = format!("order {} to be in the inbox", order.id);
        let stamp = eventually_within(&what, PATIENCE, PAUSE, async || {
            let stamp = world.books.created_to_processed(order.id).await?;
            Ok(stamp.map_or_else(|| Seen::NotYet("not there".to_owned()), Seen::Done))
        })
        .await?;
        bounds.push(begun.elapsed().as_secs_f64() * 1000.0);
        stamps.push(stamp);
    }
    world.check_books().await?;
    let median = median(&mut bounds);
    let slowest = bounds.iter().copied().fold(0.0, f64::max);
    let by_stamps = self::median(&mut stamps);
    let text = format!(
        "commit to inbox, {ORDERS} single orders: median {median:.1} ms, slowest {slowest:.1} ms \
         (upper bound: request sent to inbox row seen); median {by_stamps:.1} ms from created_at \
         to processed_at"
    );
    ensure!(
        median < GOAL.as_secs_f64() * 1000.0,
        "{text}; the goal is {GOAL:?}"
    );
    Ok(text)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(&mut [9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
        assert!(median(&mut []).is_nan());
    }
}
