//! The figures of a run.

use std::time::Duration;

use crate::torture::checkers::Findings;
use crate::torture::ledger::{Ledger, Outcome};
use crate::torture::rows::{Record, Rows};
use crate::torture::stalls::Waits;

/// All that is told at the end.
pub(crate) struct Report<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) rows: &'a Rows,
    pub(crate) records: &'a [Record],
    pub(crate) findings: &'a Findings,
    pub(crate) waits: &'a Waits,
    /// Records that were sent again after an unknown outcome.
    pub(crate) resent: i64,
    /// From the end of the load until nothing was on its way any more.
    pub(crate) drained: Option<Duration>,
}

impl Report<'_> {
    pub(crate) fn print(&self) {
        let Self {
            ledger,
            rows,
            findings,
            ..
        } = self;
        let [done, refused, unknown] = count(ledger.orders.iter().map(|placed| placed.outcome));
        println!(
            "\norders         {done} accepted, {refused} refused, {unknown} unknown; {} stored",
            rows.orders.len()
        );
        let [done, refused, unknown] = count(ledger.cancellations.iter().map(|c| c.outcome));
        println!("cancellations  {done} accepted, {refused} refused, {unknown} unknown");
        let [done, undone, unknown] = count(ledger.transactions.iter().map(|t| t.outcome));
        println!("transactions   {done} committed, {undone} rolled back, {unknown} unknown");
        println!(
            "events         {} stored, {} of them by SQL writers; {} records in Kafka",
            rows.events.len(),
            rows.events.iter().filter(|event| event.is_foreign).count(),
            self.records.len()
        );
        println!(
            "lost {}, twice {}, out of order {}",
            findings.lost, findings.twice, findings.out_of_order
        );
        println!(
            "duplicates     {} in Kafka; {} records were sent again after an unknown outcome, \
             without those that killed relays did not tell",
            findings.duplicates, self.resent
        );
        if let Some(drained) = self.drained {
            println!(
                "drained        {:.1} s after the last order",
                drained.as_secs_f64()
            );
        }
        println!(
            "\n{:<46} {:>5} {:>12} {:>12}",
            "fault", "times", "to Kafka", "to effect"
        );
        for (kind, stalls) in &self.waits.by_kind {
            let seconds = |stall: Duration| format!("{:.1} s", stall.as_secs_f64());
            println!(
                "{kind:<46} {:>5} {:>12} {:>12}",
                stalls.faults,
                seconds(stalls.published),
                seconds(stalls.applied)
            );
        }
        println!(
            "The times are the longest that an order or a cancellation took. Of no wait was more \
             than {:.1} s without a fault.\n",
            self.waits.calm.as_secs_f64()
        );
    }
}

fn count(outcomes: impl Iterator<Item = Outcome>) -> [usize; 3] {
    let mut counts = [0; 3];
    for outcome in outcomes {
        counts[match outcome {
            Outcome::Done => 0,
            Outcome::NotDone => 1,
            Outcome::Unknown => 2,
        }] += 1;
    }
    counts
}
