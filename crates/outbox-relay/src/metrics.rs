//! What the relay counts. Every series exists from the start, counters at zero.
//!
//! Gauges about the database are filled by the observer: each relay shows the whole outbox, so an
//! alert takes their maximum over the relays, never their sum.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use service::metrics::{Registrar, SecondsGauge};
use storage::outbox::{HeldEvents, HoldCause};

/// Clones count into the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Events moved to published.
    pub published: Counter,
    /// Produce requests that failed and were tried again.
    pub retried: Counter,
    /// Records sent again although Kafka may have them.
    pub resent_after_unknown_outcome: Counter,
    /// Events moved to held.
    pub holds: ByCause<Counter>,
    /// Pending ids removed because their event does not exist.
    pub orphans: Counter,
    /// Slots lost without being given up.
    pub lease_losses: Counter,
    /// Reads, by what started them.
    pub wake_ups: WakeUps,
    /// Events that retention deleted.
    pub deleted: Counter,
    /// Slots this process owns.
    pub slots_owned: Gauge,
    /// Events read and not yet settled.
    pub in_flight: Gauge,
    /// Pending events of the whole outbox, counted up to a bound.
    pub backlog: Gauge,
    /// Age of the oldest pending event of the whole outbox; 0 when nothing is pending.
    pub oldest_pending_age_seconds: SecondsGauge,
    /// Events held now, counted up to a bound.
    pub held: ByCause<Gauge>,
    /// Age of the oldest snapshot that keeps deleted entries from being vacuumed; 0 when there is none.
    pub snapshot_horizon_age_seconds: SecondsGauge,
    pub read_seconds: Histogram,
    pub produce_seconds: Histogram,
    pub settle_seconds: Histogram,
    pub hold_seconds: Histogram,
}

/// One metric for each cause of a hold.
#[derive(Debug, Clone)]
pub struct ByCause<M> {
    /// The event is a dead letter.
    pub dead: M,
    /// A dead letter of its key blocks it.
    pub blocked: M,
    /// Its partition cannot be written.
    pub unavailable: M,
}

/// Reads, by what started them.
#[derive(Debug, Clone)]
pub struct WakeUps {
    /// A writer notified the relays of its commit.
    pub notification: Counter,
    /// The poll interval ended.
    pub poll: Counter,
    /// A slot is idle again.
    pub settled: Counter,
    /// The owned slots changed.
    pub lease: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

const fn label(cause: &'static str) -> CauseLabel {
    CauseLabel { cause }
}

/// In the order of [`ByCause`].
const CAUSES: [CauseLabel; 3] = [
    label(HoldCause::Dead.as_str()),
    label(HoldCause::Blocked.as_str()),
    label(HoldCause::Unavailable.as_str()),
];

/// Upper bounds of times: from half a millisecond to 16 s.
fn seconds() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_5, 2.0, 16)
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let mut to = Registrar::new(registry);
        Self {
            published: to.add(
                "outbox_published",
                "Events acknowledged by Kafka and recorded as published",
            ),
            retried: to.add(
                "outbox_retried",
                "Produce requests that failed and were tried again",
            ),
            resent_after_unknown_outcome: to.add(
                "outbox_resent_after_unknown_outcome",
                "Records sent again although Kafka may have them: possible duplicates",
            ),
            holds: ByCause::of(to.each("outbox_holds", "Events moved to held, by cause", CAUSES)),
            orphans: to.add(
                "outbox_orphans",
                "Pending ids removed because their event does not exist",
            ),
            lease_losses: to.add("outbox_lease_losses", "Slots lost without being given up"),
            wake_ups: WakeUps::of(to.each(
                "outbox_wake_ups",
                "Reads of the outbox, by what started them",
                ["notification", "poll", "settled", "lease"].map(label),
            )),
            deleted: to.add(
                "outbox_deleted",
                "Published and discarded events deleted because they were older than \
                 OUTBOX_RETENTION",
            ),
            slots_owned: to.add("outbox_slots_owned", "Slots this process owns"),
            in_flight: to.add("outbox_in_flight", "Events read and not yet settled"),
            backlog: to.add(
                "outbox_backlog",
                "Pending events of the whole outbox, counted up to 100,000",
            ),
            oldest_pending_age_seconds: to.add(
                "outbox_oldest_pending_age_seconds",
                "Age of the oldest pending event of the whole outbox, 0 when nothing is pending",
            ),
            held: ByCause::of(to.each(
                "outbox_held",
                "Events held now, by cause, among the 100,000 oldest",
                CAUSES,
            )),
            snapshot_horizon_age_seconds: to.add(
                "outbox_snapshot_horizon_age_seconds",
                "Age of the oldest snapshot that keeps deleted entries from being vacuumed",
            ),
            read_seconds: to.histogram(
                "outbox_read_seconds",
                "Time of a read of pending events",
                seconds(),
            ),
            produce_seconds: to.histogram(
                "outbox_produce_seconds",
                "Time of a produce request",
                seconds(),
            ),
            settle_seconds: to.histogram(
                "outbox_settle_seconds",
                "Time of a settling statement",
                seconds(),
            ),
            hold_seconds: to.histogram(
                "outbox_hold_seconds",
                "Time of a holding transaction",
                seconds(),
            ),
        }
    }

    /// Counts events that were moved to held just now.
    pub fn held(&self, held: &[HeldEvents]) {
        for HeldEvents { cause, events } in held {
            let counter = match cause {
                HoldCause::Dead => &self.holds.dead,
                HoldCause::Blocked => &self.holds.blocked,
                HoldCause::Unavailable => &self.holds.unavailable,
            };
            counter.inc_by(u64::try_from(*events).unwrap_or_default());
        }
    }
}

impl<M> ByCause<M> {
    fn of([dead, blocked, unavailable]: [M; 3]) -> Self {
        Self {
            dead,
            blocked,
            unavailable,
        }
    }
}

impl WakeUps {
    fn of([notification, poll, settled, lease]: [Counter; 4]) -> Self {
        Self {
            notification,
            poll,
            settled,
            lease,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_at_zero() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let shown = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let text = shown(&registry);
        for series in [
            "outbox_published_total 0",
            "outbox_retried_total 0",
            "outbox_resent_after_unknown_outcome_total 0",
            "outbox_holds_total{cause=\"dead\"} 0",
            "outbox_holds_total{cause=\"blocked\"} 0",
            "outbox_holds_total{cause=\"unavailable\"} 0",
            "outbox_held{cause=\"dead\"} 0",
            "outbox_held{cause=\"blocked\"} 0",
            "outbox_held{cause=\"unavailable\"} 0",
            "outbox_lease_losses_total 0",
            "outbox_orphans_total 0",
            "outbox_wake_ups_total{cause=\"notification\"} 0",
            "outbox_wake_ups_total{cause=\"poll\"} 0",
            "outbox_wake_ups_total{cause=\"settled\"} 0",
            "outbox_wake_ups_total{cause=\"lease\"} 0",
            "outbox_deleted_total 0",
            "outbox_slots_owned 0",
            "outbox_backlog 0",
            "outbox_oldest_pending_age_seconds 0.0",
            "outbox_snapshot_horizon_age_seconds 0.0",
            "outbox_read_seconds_count 0",
            "outbox_produce_seconds_count 0",
            "outbox_settle_seconds_count 0",
            "outbox_hold_seconds_count 0",
        ] {
            assert!(text.lines().any(|l| l == series), "{series} in\n{text}");
        }

        metrics.held(&[HeldEvents {
            cause: HoldCause::Blocked,
            events: 3,
        }]);
        let text = shown(&registry);
        assert!(
            text.contains("outbox_holds_total{cause=\"blocked\"} 3"),
            "{text}"
        );
    }
}
