//! One batch, and the records in it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use time::OffsetDateTime;

use crate::compression::unpacking;
use crate::record::{IncomingRecord, LARGEST_RECORD};
use crate::wire::{Bytes, Malformed};

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
    #[error("it cannot be decompressed: {0}")]
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

/// A batch whose outside is read.
pub(super) struct RawBatch<'a> {
    pub(super) base_offset: i64,
    attributes: i16,
    last_offset_delta: i32,
    first_timestamp: i64,
    max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) count: i32,
    body: &'a [u8],
}

/// `None` at the end, and when the batch is cut off.
pub(super) fn next_batch<'a>(bytes: &mut Bytes<'a>) -> Option<Result<RawBatch<'a>, InvalidBatch>> {
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
    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    pub(super) fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    fn has_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    pub(super) fn unpacked(&self) -> io::Result<Box<dyn BufRead + '_>> {
        unpacking(self.attributes & 0x07, self.body)
    }

    pub(super) fn end(&self) -> i64 {
        self.base_offset
            .saturating_add(self.last_offset_delta.into())
            .saturating_add(1)
    }

    /// Reads one record; returns its size too.
    pub(super) fn record(
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

/// Does not allocate by the length that it reads: there may be less.
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
