//! Record batches as brokers store and send them: format 2 of
//! <https://kafka.apache.org/documentation/#recordbatch>.
//!
//! Read here rather than by rskafka, whose reader fails, for ever, on what other clients may write:
//! the markers that end transactions, headers without a value, names that are not UTF-8. It also
//! hands out the records of aborted transactions, and hides how far a fetch reached.

mod raw;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use crate::record::IncomingRecord;
use crate::wire::Bytes;
use raw::{InvalidBatch, RawBatch, next_batch};

/// What is read at once, in bytes and in records, and one record more: packed, a few kilobytes may
/// hold very much. What is left is read by the next fetch.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;
const ENOUGH_RECORDS: usize = 10_000;

/// A batch that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// From where on.
    pub(crate) offset: i64,
    /// Beyond the batch, if that much can be read.
    pub(crate) end: Option<i64>,
    pub(crate) reason: InvalidBatch,
}

/// What a fetch brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batches {
    pub(crate) records: Vec<IncomingRecord>,
    /// Where to fetch next: beyond the last whole batch, or in the midst of one that has more.
    pub(crate) next_offset: i64,
    /// What the records take.
    bytes: usize,
}

/// A transaction that was aborted: its records are from `first_offset` to its producer's marker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
}

/// Reads batches from the one that holds `offset` on, until there is enough; what is cut off at the
/// end is left for the next fetch. Batches below `offset`, markers, and records of aborted
/// transactions are left out. What comes before a batch that cannot be read is delivered first.
pub(crate) fn read(bytes: &[u8], offset: i64, aborted: &[Aborted]) -> Result<Batches, Unreadable> {
    let mut read = Batches {
        next_offset: offset,
        ..Batches::default()
    };
    let mut transactions = Transactions {
        to_come: aborted.to_vec(),
        aborting: HashSet::new(),
    };
    let mut bytes = Bytes(bytes);
    while !read.is_enough()
        && let Some(batch) = next_batch(&mut bytes)
    {
        let end = batch.as_ref().ok().map(RawBatch::end);
        let taken = batch.and_then(|batch| {
            if transactions.hide(&batch) {
                read.pass(&batch);
                return Ok(());
            }
            read.take(&batch)
        });
        match taken {
            Ok(()) => {}
            Err(_) if read.next_offset > offset => break,
            Err(reason) => {
                return Err(Unreadable {
                    offset,
                    end,
                    reason,
                });
            }
        }
    }
    Ok(read)
}

/// Aborted transactions, while batches pass by.
struct Transactions {
    to_come: Vec<Aborted>,
    /// Producers whose records are of one.
    aborting: HashSet<i64>,
}

impl Transactions {
    /// Whether the batch is not to be delivered: a marker, or of an aborted transaction.
    fn hide(&mut self, batch: &RawBatch<'_>) -> bool {
        self.to_come.retain(|transaction| {
            let begun = transaction.first_offset < batch.end();
            if begun {
                self.aborting.insert(transaction.producer_id);
            }
            !begun
        });
        if batch.is_control() {
            // Whichever way the transaction ended, what its producer writes next is another one.
            self.aborting.remove(&batch.producer_id);
            return true;
        }
        batch.is_transactional() && self.aborting.contains(&batch.producer_id)
    }
}

impl Batches {
    fn is_enough(&self) -> bool {
        self.bytes >= ENOUGH_BYTES || self.records.len() >= ENOUGH_RECORDS
    }

    /// Takes the records of a batch, one by one, as far as there is not enough.
    fn take(&mut self, batch: &RawBatch<'_>) -> Result<(), InvalidBatch> {
        let mut unpacked = batch.unpacked()?;
        let mut buffer = Vec::new();
        let mut lowest = batch.base_offset;
        for number in 0..batch.count {
            let (record, bytes) = batch.record(number, &mut unpacked, &mut buffer)?;
            if !(lowest..batch.end()).contains(&record.offset) {
                return Err(InvalidBatch::Order);
            }
            lowest = record.offset + 1;
            if record.offset < self.next_offset {
                continue;
            }
            self.next_offset = lowest;
            self.bytes += bytes;
            self.records.push(record);
            if self.is_enough() {
                return Ok(());
            }
        }
        self.pass(batch);
        Ok(())
    }

    fn pass(&mut self, batch: &RawBatch<'_>) {
        self.next_offset = batch.end().max(self.next_offset);
    }
}
