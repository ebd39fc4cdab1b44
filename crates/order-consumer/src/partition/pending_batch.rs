//! The batch in hand: fetched and not yet applied, and how often it failed. Decides how it is tried
//! next, and asks nobody.

use crate::apply::transaction::{Attempt, Batch};
use crate::partition::prefetch::FetchedBatch;

/// How often a batch is tried again before an event of it is blamed.
const RETRIES: i32 = 3;
/// Records narrowed down in one transaction: even if each of them fails, it ends in time.
const NARROW_RECORDS: usize = 64;

/// How many records are applied in one transaction, which must end in time: as many as one fetch
/// brings, unless handlers are too slow for that, or Postgres is. Which of these or of many other
/// things has ended a transaction cannot be told, so after each trouble there are fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(Self::MOST)
    }
}

impl BatchSize {
    /// No fetch brings more.
    const MOST: usize = 10_000;

    /// So many were too many, perhaps.
    pub(crate) fn shrink(&mut self, records: usize) {
        self.0 = (self.0.min(records) / 2).max(1);
    }

    /// So many went well. Grows slowly: what is too much costs all the time there is.
    pub(crate) fn grow(&mut self, records: usize) {
        if records >= self.0 {
            self.0 = (self.0 + self.0 / 16 + 1).min(Self::MOST);
        }
    }
}

/// See the module.
pub(crate) struct PendingBatch {
    fetched: FetchedBatch,
    /// By the fault of an event; an outage does not count.
    failures: i32,
}

impl PendingBatch {
    pub(crate) fn new(fetched: FetchedBatch) -> Self {
        Self {
            fetched,
            failures: 0,
        }
    }

    /// What is left of what was fetched.
    pub(crate) fn fetched(&self) -> &FetchedBatch {
        &self.fetched
    }

    /// How often it failed by the fault of an event.
    pub(crate) fn failures(&self) -> i32 {
        self.failures
    }

    /// It failed by the fault of an event.
    pub(crate) fn failed(&mut self) {
        self.failures += 1;
    }

    /// How it is to be tried, and which of its records: all of it, or, once that has failed too
    /// often, the first ones, to
    /// isolate the guilty one.
    pub(crate) fn attempt(&self, batch_size: BatchSize) -> (Attempt, Batch<'_>) {
        let whole = Batch {
            records: &self.fetched.records,
            next_offset: self.fetched.next_offset,
        };
        if self.is_whole() {
            return (Attempt::WholeBatch, whole.first(batch_size.0));
        }
        let attempts = self.failures + 1;
        (
            Attempt::Isolate { attempts },
            whole.first(batch_size.0.min(NARROW_RECORDS)),
        )
    }

    fn is_whole(&self) -> bool {
        self.failures < RETRIES
    }

    /// What is left of it once all before `next_offset` is done.
    pub(crate) fn after(mut self, next_offset: i64) -> Option<Self> {
        if self.is_whole() {
            // The records that failed are among those that are done.
            self.failures = 0;
        }
        let fetched = &mut self.fetched;
        if next_offset >= fetched.next_offset {
            return None;
        }
        fetched.records.retain(|d| d.record.offset >= next_offset);
        fetched.from = next_offset;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use messaging::IncomingRecord;
    use time::OffsetDateTime;

    use super::*;
    use crate::apply::decode::decode;
    use crate::registry::Registry;

    /// A batch of these offsets, and of some more that are no records.
    fn pending(offsets: std::ops::Range<i64>, next_offset: i64) -> PendingBatch {
        let record = |offset| IncomingRecord {
            offset,
            timestamp: OffsetDateTime::UNIX_EPOCH,
            key: None,
            value: None,
            headers: BTreeMap::new(),
            odd_headers: Vec::new(),
            omitted_bytes: None,
        };
        PendingBatch::new(FetchedBatch {
            from: offsets.start,
            records: offsets
                .map(|offset| decode(&Registry::default(), "t", record(offset)))
                .collect(),
            next_offset,
            high_watermark: next_offset,
            stable_offset: next_offset,
            throttle: std::time::Duration::ZERO,
        })
    }

    fn tried(pending: &PendingBatch) -> (Attempt, usize, i64) {
        let (attempt, batch) = pending.attempt(BatchSize::default());
        (attempt, batch.records.len(), batch.next_offset)
    }

    #[test]
    fn it_is_tried_whole_four_times_and_then_in_parts() {
        let mut batch = pending(10..150, 153);
        for failures in 0..3 {
            assert_eq!(batch.failures(), failures);
            assert_eq!(tried(&batch), (Attempt::WholeBatch, 140, 153));
            batch.failed();
        }
        let last = Attempt::Isolate { attempts: 4 };
        assert_eq!(tried(&batch), (last, 64, 74));
        let batch = batch.after(74).unwrap();
        assert_eq!(batch.fetched().from, 74);
        assert_eq!(tried(&batch), (last, 64, 138));
        let batch = batch.after(138).unwrap();
        assert_eq!(tried(&batch), (last, 12, 153));
        assert!(batch.after(153).is_none());
    }

    #[test]
    fn after_trouble_there_are_fewer_down_to_one_and_slowly_more_again() {
        let batch = pending(0..140, 140);
        let tried = |batch_size| batch.attempt(batch_size).1.records.len();
        let mut batch_size = BatchSize::default();
        assert_eq!(tried(batch_size), 140);
        for half in [70, 35, 17, 8, 4, 2, 1, 1] {
            batch_size.shrink(tried(batch_size));
            assert_eq!(tried(batch_size), half);
        }
        batch_size.grow(0);
        assert_eq!(batch_size, BatchSize(1), "nothing was learnt");
        let mut turns = 0;
        while batch_size != BatchSize::default() {
            batch_size.grow(batch_size.0);
            turns += 1;
        }
        assert!((100..200).contains(&turns), "{turns}");
    }

    #[test]
    fn very_many_records_are_applied_in_parts_that_fail_each_for_itself() {
        let mut batch = pending(0..25_000, 25_001);
        assert_eq!(tried(&batch), (Attempt::WholeBatch, 10_000, 10_000));
        batch.failed();
        let batch = batch.after(10_000).unwrap();
        assert_eq!(batch.failures(), 0);
        assert_eq!(tried(&batch), (Attempt::WholeBatch, 10_000, 20_000));
        let batch = batch.after(20_000).unwrap();
        assert_eq!(tried(&batch), (Attempt::WholeBatch, 5_000, 25_001));
        assert!(batch.after(25_001).is_none());
    }
}
