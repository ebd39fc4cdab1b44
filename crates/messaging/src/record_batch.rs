//! Record batches as brokers store and send them: format 2 of
//! <https://kafka.apache.org/documentation/#recordbatch>.
//!
//! Read here rather than by rskafka, whose reader fails, for ever, on what other clients may write:
//! the markers that end transactions, headers without a value, names that are not UTF-8. It also
//! hands out the records of aborted transactions, and hides how far a fetch reached.

use std::collections::{BTreeMap, HashSet};

use time::OffsetDateTime;

use crate::compression::{CannotUnpack, unpack};
use crate::reader::IncomingRecord;
use crate::wire::{Bytes, Malformed};

/// Why batches cannot be read. The same bytes never read otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidBatch {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("format {0}, which is not 2")]
    Format(i8),
    #[error("its checksum does not match")]
    Checksum,
    #[error(transparent)]
    Packed(#[from] CannotUnpack),
}

/// What a fetch brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) records: Vec<IncomingRecord>,
    /// Beyond the last whole batch: where to fetch next.
    pub(crate) next_offset: i64,
}

/// A transaction that was aborted: its records are from `first_offset` to its producer's marker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
}

/// Reads batches from the one that holds `offset` on; what is cut off at the end is left for the
/// next fetch. Records below `offset`, markers, and records of aborted transactions are left out.
pub(crate) fn read(
    bytes: &[u8],
    offset: i64,
    aborted: &[Aborted],
) -> Result<Records, (i64, InvalidBatch)> {
    let mut read = Records {
        records: Vec::new(),
        next_offset: offset,
    };
    let mut pending: Vec<Aborted> = aborted.to_vec();
    let mut aborting: HashSet<i64> = HashSet::new();
    let mut bytes = Bytes(bytes);
    while let Some(batch) = next_batch(&mut bytes) {
        let wrong = |error| (read.next_offset, error);
        let batch = batch.map_err(wrong)?;
        let end = batch.base_offset + i64::from(batch.last_offset_delta) + 1;
        pending.retain(|transaction| {
            let begun = transaction.first_offset < end;
            if begun {
                aborting.insert(transaction.producer_id);
            }
            !begun
        });
        if batch.is_control() {
            // Whichever way the transaction ended, what its producer writes next is another one.
            aborting.remove(&batch.producer_id);
        } else if !(batch.is_transactional() && aborting.contains(&batch.producer_id)) {
            batch
                .records(read.next_offset, &mut read.records)
                .map_err(|error| (read.next_offset, error))?;
        }
        read.next_offset = end.max(read.next_offset);
    }
    Ok(read)
}

struct RawBatch<'a> {
    base_offset: i64,
    attributes: i16,
    last_offset_delta: i32,
    first_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    count: usize,
    body: &'a [u8],
}

/// `None` at the end, and when the batch is cut off.
fn next_batch<'a>(bytes: &mut Bytes<'a>) -> Option<Result<RawBatch<'a>, InvalidBatch>> {
    let mut ahead = *bytes;
    let base_offset = ahead.i64().ok()?;
    let length = ahead.i32().ok()?;
    let Ok(length) = usize::try_from(length) else {
        return Some(Err(Malformed::Length(length.into()).into()));
    };
    let whole = ahead.take(length).ok()?;
    *bytes = ahead;
    Some(raw_batch(base_offset, Bytes(whole)))
}

fn raw_batch(base_offset: i64, mut bytes: Bytes<'_>) -> Result<RawBatch<'_>, InvalidBatch> {
    let _leader_epoch = bytes.i32()?;
    let format = bytes.i8()?;
    if format != 2 {
        return Err(InvalidBatch::Format(format));
    }
    let checksum = bytes.u32()?;
    if crc32c::crc32c(bytes.0) != checksum {
        return Err(InvalidBatch::Checksum);
    }
    let attributes = bytes.i16()?;
    let last_offset_delta = bytes.i32()?;
    let first_timestamp = bytes.i64()?;
    let max_timestamp = bytes.i64()?;
    let producer_id = bytes.i64()?;
    let (_producer_epoch, _base_sequence) = (bytes.i16()?, bytes.i32()?);
    Ok(RawBatch {
        base_offset,
        attributes,
        last_offset_delta,
        first_timestamp,
        max_timestamp,
        producer_id,
        count: bytes.count()?,
        body: bytes.0,
    })
}

impl RawBatch<'_> {
    fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    fn has_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    fn records(&self, from: i64, out: &mut Vec<IncomingRecord>) -> Result<(), InvalidBatch> {
        let unpacked;
        let mut bytes = match self.attributes & 0x07 {
            0 => Bytes(self.body),
            compression => {
                unpacked = unpack(compression, self.body)?;
                Bytes(&unpacked)
            }
        };
        for _ in 0..self.count {
            let length = bytes.varint()?;
            let length = usize::try_from(length).map_err(|_| Malformed::Length(length))?;
            let record = self.record(Bytes(bytes.take(length)?))?;
            if record.offset >= from {
                out.push(record);
            }
        }
        Ok(())
    }

    fn record(&self, mut bytes: Bytes<'_>) -> Result<IncomingRecord, InvalidBatch> {
        let _attributes = bytes.i8()?;
        let timestamp_delta = bytes.varint()?;
        let offset = self.base_offset.saturating_add(bytes.varint()?);
        let key = bytes.varint_bytes()?.map(<[u8]>::to_vec);
        let value = bytes.varint_bytes()?.map(<[u8]>::to_vec);
        let mut headers = BTreeMap::new();
        let mut odd_headers = Vec::new();
        for _ in 0..bytes.varint()? {
            let name = bytes.varint_bytes()?.unwrap_or_default();
            let value = bytes.varint_bytes()?;
            match (std::str::from_utf8(name), value) {
                (Ok(text), Some(value)) => {
                    if let Some(earlier) = headers.insert(text.to_owned(), value.to_vec()) {
                        odd_headers.push((name.to_vec(), Some(earlier)));
                    }
                }
                (_, value) => odd_headers.push((name.to_vec(), value.map(<[u8]>::to_vec))),
            }
        }
        let millis = if self.has_append_time() {
            self.max_timestamp
        } else {
            self.first_timestamp.saturating_add(timestamp_delta)
        };
        Ok(IncomingRecord {
            offset,
            timestamp: OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            key,
            value,
            headers,
            odd_headers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put_varint(out: &mut Vec<u8>, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        out.push(u8::try_from(rest).unwrap());
    }

    fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
        put_varint(out, bytes.map_or(-1, |b| i64::try_from(b.len()).unwrap()));
        out.extend(bytes.unwrap_or_default());
    }

    /// A batch of records with these values; `attributes` as in the format.
    fn batch(base: i64, attributes: i16, producer: i64, values: &[&str]) -> Vec<u8> {
        let mut body = Vec::new();
        for (delta, value) in values.iter().enumerate() {
            let mut record = vec![0];
            put_varint(&mut record, 5);
            put_varint(&mut record, i64::try_from(delta).unwrap());
            put_bytes(&mut record, None);
            put_bytes(&mut record, Some(value.as_bytes()));
            put_varint(&mut record, 4);
            for (name, value) in [
                (&b"a"[..], Some(&b"1"[..])),
                (b"a", Some(b"2")),
                (b"none", None),
                (b"\xff", Some(b"3")),
            ] {
                put_bytes(&mut record, Some(name));
                put_bytes(&mut record, value);
            }
            put_varint(&mut body, i64::try_from(record.len()).unwrap());
            body.extend(record);
        }
        let mut checked = attributes.to_be_bytes().to_vec();
        checked.extend(i32::try_from(values.len() - 1).unwrap().to_be_bytes());
        checked.extend(1_000_i64.to_be_bytes());
        checked.extend(9_000_i64.to_be_bytes());
        checked.extend(producer.to_be_bytes());
        checked.extend([0; 6]);
        checked.extend(i32::try_from(values.len()).unwrap().to_be_bytes());
        checked.extend(body);
        let mut batch = base.to_be_bytes().to_vec();
        batch.extend(i32::try_from(checked.len() + 9).unwrap().to_be_bytes());
        batch.extend(0_i32.to_be_bytes());
        batch.push(2);
        batch.extend(crc32c::crc32c(&checked).to_be_bytes());
        batch.extend(checked);
        batch
    }

    fn values(records: &Records) -> Vec<(i64, String)> {
        let text = |value: &Option<Vec<u8>>| String::from_utf8(value.clone().unwrap()).unwrap();
        records
            .records
            .iter()
            .map(|record| (record.offset, text(&record.value)))
            .collect()
    }

    #[test]
    fn odd_headers_are_kept_apart() {
        let read = read(&batch(7, 0, -1, &["x"]), 7, &[]).unwrap();
        let record = &read.records[0];
        assert_eq!(record.headers, [("a".to_owned(), b"2".to_vec())].into());
        assert_eq!(
            record.odd_headers,
            [
                (b"a".to_vec(), Some(b"1".to_vec())),
                (b"none".to_vec(), None),
                (b"\xff".to_vec(), Some(b"3".to_vec())),
            ]
        );
        assert_eq!(record.timestamp.unix_timestamp_nanos(), 1_005_000_000);
        let appended = super::read(&batch(7, 8, -1, &["x"]), 7, &[]).unwrap();
        assert_eq!(appended.records[0].timestamp.unix_timestamp(), 9);
    }

    #[test]
    fn markers_and_aborted_records_are_passed_over() {
        let mut bytes = batch(10, 0x10, 1, &["aborted"]);
        bytes.extend(batch(11, 0x10, 2, &["good"]));
        bytes.extend(batch(12, 0x30, 1, &["marker"]));
        bytes.extend(batch(13, 0x10, 1, &["later", "too"]));
        bytes.extend(batch(15, 0x30, 1, &["marker"]));
        let aborted = [Aborted {
            producer_id: 1,
            first_offset: 10,
        }];
        let all = read(&bytes, 10, &aborted).unwrap();
        let good = |offset, text: &str| (offset, text.to_owned());
        assert_eq!(
            values(&all),
            [good(11, "good"), good(13, "later"), good(14, "too")]
        );
        assert_eq!(all.next_offset, 16);
        // From the middle of a batch, with the last one cut off.
        bytes.truncate(bytes.len() - 1);
        let some = read(&bytes, 14, &aborted).unwrap();
        assert_eq!(
            (values(&some), some.next_offset),
            (vec![good(14, "too")], 15)
        );
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut bytes = batch(0, 0, -1, &["x"]);
        *bytes.last_mut().unwrap() ^= 1;
        let (offset, error) = read(&bytes, 0, &[]).unwrap_err();
        assert!(matches!((offset, error), (0, InvalidBatch::Checksum)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), attributes in 0..8_i16, cut in 0..100_usize) {
            let _ = read(&bytes, 0, &[]);
            let mut batch = batch(0, attributes, 3, &["one", "two"]);
            // With a checksum that matches, so that what follows is read.
            batch.truncate(batch.len() - cut.min(batch.len() - 21));
            let length = i32::try_from(batch.len() - 12).unwrap();
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            let checksum = crc32c::crc32c(&batch[21..]);
            batch[17..21].copy_from_slice(&checksum.to_be_bytes());
            let _ = read(&batch, 0, &[]);
        }
    }
}
