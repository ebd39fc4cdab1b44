//! Record batches as brokers store and send them: format 2 of
//! <https://kafka.apache.org/documentation/#recordbatch>.
//!
//! Read here rather than by rskafka, whose reader fails, for ever, on what other clients may write:
//! the markers that end transactions, headers without a value, names that are not UTF-8. It also
//! hands out the records of aborted transactions, and hides how far a fetch reached.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead, Read};

use time::OffsetDateTime;

use crate::compression::unpacking;
use crate::reader::{IncomingRecord, LARGEST_RECORD};
use crate::wire::{Bytes, Malformed};

/// What is read at once, in bytes and in records, and one record more: packed, a few kilobytes may
/// hold very much. What is left is read by the next fetch.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;
const ENOUGH_RECORDS: usize = 10_000;
/// What is read of a record that is larger than [`LARGEST_RECORD`]: its key, as a rule.
const HEAD: usize = 64 * 1024;

/// Why batches cannot be read. The same bytes never read otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidBatch {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("format {0}, which is not 2")]
    Format(i8),
    #[error("its checksum does not match")]
    Checksum,
    #[error("its records are not in the order of their offsets")]
    Order,
    #[error("it cannot be unpacked: {0}")]
    Unpacking(io::Error),
}

impl From<io::Error> for InvalidBatch {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Malformed::Short.into(),
            _ => Self::Unpacking(error),
        }
    }
}

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
        let mut unpacked = unpacking(batch.attributes & 0x07, batch.body)?;
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

struct RawBatch<'a> {
    base_offset: i64,
    attributes: i16,
    last_offset_delta: i32,
    first_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    count: i32,
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
        count: bytes.i32()?,
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

    fn end(&self) -> i64 {
        self.base_offset
            .saturating_add(self.last_offset_delta.into())
            .saturating_add(1)
    }

    /// Reads one record; returns its size too.
    fn record(
        &self,
        number: i32,
        unpacked: &mut dyn BufRead,
        buffer: &mut Vec<u8>,
    ) -> Result<(IncomingRecord, usize), InvalidBatch> {
        let length = varint(unpacked)?;
        let length = usize::try_from(length).map_err(|_| Malformed::Length(length))?;
        let record = if length <= LARGEST_RECORD {
            fill(buffer, length, unpacked)?;
            let mut bytes = Bytes(buffer);
            let mut record = self.head(number, &mut bytes)?;
            record.key = bytes.varint_bytes()?.map(<[u8]>::to_vec);
            record.value = bytes.varint_bytes()?.map(<[u8]>::to_vec);
            headers(&mut record, &mut bytes)?;
            record
        } else {
            fill(buffer, HEAD, unpacked)?;
            skip(length - HEAD, unpacked)?;
            let mut bytes = Bytes(buffer);
            let mut record = self.head(number, &mut bytes)?;
            record.key = bytes.varint_bytes().ok().flatten().map(<[u8]>::to_vec);
            record.omitted_bytes = Some(length);
            record
        };
        Ok((record, length))
    }

    /// What comes before a record's key.
    fn head(&self, number: i32, bytes: &mut Bytes<'_>) -> Result<IncomingRecord, InvalidBatch> {
        let _attributes = bytes.i8()?;
        let timestamp_delta = bytes.varint()?;
        let offset_delta = bytes.varint()?;
        // As brokers take a batch it has no gaps, and they do not look at what its records say.
        // Only compaction makes gaps.
        let has_gaps = i64::from(self.count) != i64::from(self.last_offset_delta) + 1;
        let delta = if has_gaps {
            offset_delta
        } else {
            number.into()
        };
        let millis = if self.has_append_time() {
            self.max_timestamp
        } else {
            self.first_timestamp.saturating_add(timestamp_delta)
        };
        Ok(IncomingRecord {
            offset: self.base_offset.saturating_add(delta),
            timestamp: OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            key: None,
            value: None,
            headers: BTreeMap::new(),
            odd_headers: Vec::new(),
            omitted_bytes: None,
        })
    }
}

fn headers(record: &mut IncomingRecord, bytes: &mut Bytes<'_>) -> Result<(), InvalidBatch> {
    for _ in 0..bytes.varint()? {
        let name = bytes.varint_bytes()?.unwrap_or_default();
        let value = bytes.varint_bytes()?.map(<[u8]>::to_vec);
        record.push_header(name, value);
    }
    Ok(())
}

fn varint(unpacked: &mut dyn BufRead) -> Result<i64, InvalidBatch> {
    let mut bytes = [0; 10];
    let mut length = 0;
    loop {
        unpacked.read_exact(&mut bytes[length..=length])?;
        length += 1;
        if bytes[length - 1] & 0x80 == 0 || length == bytes.len() {
            return Ok(Bytes(&bytes[..length]).varint()?);
        }
    }
}

/// Does not allocate by the length it was told: there may be less.
fn fill(buffer: &mut Vec<u8>, length: usize, from: &mut dyn BufRead) -> Result<(), InvalidBatch> {
    buffer.clear();
    let read = from.take(length as u64).read_to_end(buffer)?;
    if read < length {
        return Err(Malformed::Short.into());
    }
    Ok(())
}

fn skip(length: usize, from: &mut dyn BufRead) -> Result<(), InvalidBatch> {
    let skipped = io::copy(&mut from.take(length as u64), &mut io::sink())?;
    if skipped < length as u64 {
        return Err(Malformed::Short.into());
    }
    Ok(())
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

    fn put_record(out: &mut Vec<u8>, delta: usize, key: Option<&[u8]>, value: &[u8]) {
        let mut record = vec![0];
        put_varint(&mut record, 5);
        put_varint(&mut record, i64::try_from(delta).unwrap());
        put_bytes(&mut record, key);
        put_bytes(&mut record, Some(value));
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
        put_bytes(out, Some(&record));
    }

    /// A batch of so many records, without gaps; `attributes` as in the format.
    fn sealed(base: i64, attributes: i16, producer: i64, count: usize, body: &[u8]) -> Vec<u8> {
        let mut checked = attributes.to_be_bytes().to_vec();
        checked.extend(i32::try_from(count - 1).unwrap().to_be_bytes());
        checked.extend(1_000_i64.to_be_bytes());
        checked.extend(9_000_i64.to_be_bytes());
        checked.extend(producer.to_be_bytes());
        checked.extend([0; 6]);
        checked.extend(i32::try_from(count).unwrap().to_be_bytes());
        checked.extend(body);
        let mut batch = base.to_be_bytes().to_vec();
        batch.extend(i32::try_from(checked.len() + 9).unwrap().to_be_bytes());
        batch.extend(0_i32.to_be_bytes());
        batch.push(2);
        batch.extend([0; 4]);
        batch.extend(checked);
        check(&mut batch);
        batch
    }

    /// Sets the checksum.
    fn check(batch: &mut [u8]) {
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    }

    /// A batch of records with these values.
    fn batch(base: i64, attributes: i16, producer: i64, values: &[&str]) -> Vec<u8> {
        let mut body = Vec::new();
        for (delta, value) in values.iter().enumerate() {
            put_record(&mut body, delta, None, value.as_bytes());
        }
        sealed(base, attributes, producer, values.len(), &body)
    }

    const ZSTD: i16 = 4;

    fn packed(body: &[u8]) -> Vec<u8> {
        zstd::encode_all(body, 0).unwrap()
    }

    fn values(records: &Batches) -> Vec<(i64, String)> {
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
        let unreadable = read(&bytes, 0, &[]).unwrap_err();
        assert!(matches!(unreadable.reason, InvalidBatch::Checksum));
        assert_eq!((unreadable.offset, unreadable.end), (0, None));
    }

    #[test]
    fn very_many_records_are_read_in_parts() {
        let mut body = Vec::new();
        for delta in 0..25_000 {
            put_record(&mut body, delta, None, b"");
        }
        let mut bytes = sealed(100, ZSTD, -1, 25_000, &packed(&body));
        bytes.extend(batch(25_100, 0, -1, &["behind"]));
        let (mut from, mut parts) = (100, Vec::new());
        while from < 25_101 {
            let part = read(&bytes, from, &[]).unwrap();
            let offsets = part.records.iter().map(|record| record.offset);
            assert!(offsets.eq(from..part.next_offset), "from {from}");
            parts.push(part.records.len());
            from = part.next_offset;
        }
        assert_eq!(parts, [10_000, 10_000, 5_001]);
    }

    #[test]
    fn large_records_are_read_one_by_one_and_a_larger_one_in_outline() {
        let mut body = Vec::new();
        let large = vec![0; 5 * 1024 * 1024];
        let larger = vec![0; LARGEST_RECORD + 1];
        put_record(&mut body, 0, Some(b"k"), &large);
        put_record(&mut body, 1, Some(b"k"), &larger);
        put_record(&mut body, 2, Some(&larger), b"of a key that is not kept");
        put_record(&mut body, 3, Some(b"k"), b"behind");
        let bytes = sealed(0, ZSTD, -1, 4, &packed(&body));
        let parts: Vec<Batches> = (0..4)
            .map(|from| read(&bytes, from, &[]).unwrap())
            .collect();
        for (part, next_offset) in parts.iter().zip(1..) {
            assert_eq!((part.records.len(), part.next_offset), (1, next_offset));
        }
        let record = |number: usize| &parts[number].records[0];
        assert!(record(0).value.as_ref() == Some(&large) && record(0).omitted_bytes.is_none());
        let outlined =
            |record: &IncomingRecord| record.value.is_none() && record.headers.is_empty();
        assert!(outlined(record(1)) && record(1).key.as_deref() == Some(b"k"));
        assert!(record(1).omitted_bytes.unwrap() > LARGEST_RECORD);
        assert!(outlined(record(2)) && record(2).key.is_none() && record(2).offset == 2);
        assert_eq!(values(&parts[3]), [(3, "behind".to_owned())]);
    }

    #[test]
    fn records_are_numbered_by_their_place_whatever_they_say() {
        let mut body = Vec::new();
        for (delta, value) in [(0, "a"), (0, "b"), (7, "c")] {
            put_record(&mut body, delta, None, value.as_bytes());
        }
        let all = read(&sealed(10, 0, -1, 3, &body), 10, &[]).unwrap();
        let numbered = [(10, "a"), (11, "b"), (12, "c")].map(|(at, v)| (at, v.to_owned()));
        assert_eq!(values(&all), numbered);
        // With gaps only the records can tell.
        let mut compacted = sealed(10, 0, -1, 9, &body);
        compacted[57..61].copy_from_slice(&3_i32.to_be_bytes());
        check(&mut compacted);
        let unreadable = read(&compacted, 11, &[]).unwrap_err();
        assert!(matches!(unreadable.reason, InvalidBatch::Order));
        assert_eq!((unreadable.offset, unreadable.end), (11, Some(19)));
    }

    #[test]
    fn what_comes_before_damage_is_delivered_first() {
        let mut body = Vec::new();
        put_record(&mut body, 0, None, b"whole");
        body.extend([40, 0]);
        let mut bytes = batch(4, 0, -1, &["before"]);
        bytes.extend(sealed(5, 0, -1, 2, &body));
        let first = read(&bytes, 4, &[]).unwrap();
        assert_eq!(
            values(&first),
            [(4, "before".to_owned()), (5, "whole".to_owned())]
        );
        assert_eq!(first.next_offset, 6);
        let unreadable = read(&bytes, 6, &[]).unwrap_err();
        assert_eq!((unreadable.offset, unreadable.end), (6, Some(7)));
    }

    #[test]
    fn bytes_behind_the_last_record_are_no_matter() {
        let mut body = Vec::new();
        put_record(&mut body, 0, None, b"x");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &body).unwrap();
        let packed = [
            (1, gzip.finish().unwrap()),
            (ZSTD, packed(&body)),
            (0, body),
        ];
        for (compression, mut packed) in packed {
            packed.extend([0, 1, 2, 3]);
            let all = read(&sealed(0, compression, -1, 1, &packed), 0, &[]).unwrap();
            assert_eq!(values(&all), [(0, "x".to_owned())], "{compression}");
            assert_eq!(all.next_offset, 1);
        }
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
            check(&mut batch);
            let _ = read(&batch, 0, &[]);
        }
    }
}
