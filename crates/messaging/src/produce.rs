//! Produce requests. No deadlines here; see [`crate::writer`].

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::connection::{Leader, PRODUCE, accepted, one};
use crate::error::KafkaError;
use crate::wire::{Fields, put_text, put_varint};

/// The first whose answer says where the partition's log starts.
const WITH_LOG_START: i16 = 5;

/// How long the broker may wait for its in-sync replicas.
const REPLICATION_TIMEOUT_MS: i32 = 30_000;
const ALL_IN_SYNC_REPLICAS: i16 = -1;
/// Where in a record batch the fields lie that are filled in last.
const LENGTH_END: usize = 12;
const CHECKSUM: std::ops::Range<usize> = 17..21;

/// A record on its way to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRecord {
    pub key: Vec<u8>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, Vec<u8>>,
}

impl Leader {
    /// Appends a batch of records; returns the offset of the first.
    pub(crate) async fn produce(
        &mut self,
        (topic, partition): (&str, i32),
        batch: &[u8],
    ) -> Result<i64, KafkaError> {
        let version = self.connection.produce_version;
        let mut body = Vec::with_capacity(64 + topic.len() + batch.len());
        body.extend((-1_i16).to_be_bytes()); // no transaction
        body.extend(ALL_IN_SYNC_REPLICAS.to_be_bytes());
        body.extend(REPLICATION_TIMEOUT_MS.to_be_bytes());
        body.extend(1_i32.to_be_bytes());
        put_text(&mut body, topic);
        body.extend(1_i32.to_be_bytes());
        body.extend(partition.to_be_bytes());
        body.extend(length(batch.len()));
        body.extend(batch);
        let frame = self
            .connection
            .request((PRODUCE, version), false, &body)
            .await?;
        let (offset, throttle) = appended(&frame, version)?;
        // An answer is an answer, whatever a quota demands of the next request (KIP-219).
        self.connection.throttle(throttle);
        offset
    }
}

/// What an answer says: the offset of the first record or why there is none, and for how many
/// milliseconds nothing more may be sent.
fn appended(frame: &[u8], version: i16) -> Result<(Result<i64, KafkaError>, i32), KafkaError> {
    let mut fields = Fields::of_answer(frame, false)?;
    one(fields.count()?)?;
    let _topic = fields.text()?;
    one(fields.count()?)?;
    let (_partition, code) = (fields.bytes.i32()?, fields.bytes.i16()?);
    let (offset, _append_time) = (fields.bytes.i64()?, fields.bytes.i64()?);
    if version >= WITH_LOG_START {
        let _log_start = fields.bytes.i64()?;
    }
    let throttle = fields.bytes.i32()?;
    Ok((accepted(code).map(|()| offset), throttle))
}

/// The records in one batch, as Kafka stores them
/// (<https://kafka.apache.org/documentation/#recordbatch>).
pub(crate) fn batch(records: &[OutgoingRecord], now: SystemTime) -> Vec<u8> {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since_epoch.unwrap_or_default().as_millis();
    let time = i64::try_from(millis).unwrap_or(i64::MAX).to_be_bytes();
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let mut batch = Vec::with_capacity(records.iter().map(size_hint).sum::<usize>() + 64);
    batch.extend(0_i64.to_be_bytes()); // the broker gives the offset
    batch.extend([0; 4]); // length, see below
    batch.extend((-1_i32).to_be_bytes()); // the broker knows the leader's epoch
    batch.push(2); // version of the format
    batch.extend([0; 4]); // checksum, see below
    batch.extend(0_i16.to_be_bytes()); // no compression, the time of creation
    batch.extend((count - 1).to_be_bytes());
    batch.extend(time);
    batch.extend(time);
    batch.extend((-1_i64).to_be_bytes()); // no producer id,
    batch.extend((-1_i16).to_be_bytes()); // epoch
    batch.extend((-1_i32).to_be_bytes()); // and sequence
    batch.extend(count.to_be_bytes());
    let mut encoded = Vec::new();
    for (offset_delta, record) in (0_i64..).zip(records) {
        encoded.clear();
        encoded.extend([0, 0]); // no attributes, the time of the batch
        put_varint(&mut encoded, offset_delta);
        put_bytes(&mut encoded, &record.key);
        match &record.value {
            Some(value) => put_bytes(&mut encoded, value),
            None => put_varint(&mut encoded, -1),
        }
        put_length(&mut encoded, record.headers.len());
        for (name, value) in &record.headers {
            put_bytes(&mut encoded, name.as_bytes());
            put_bytes(&mut encoded, value);
        }
        put_bytes(&mut batch, &encoded);
    }
    let length = length(batch.len() - LENGTH_END);
    batch[LENGTH_END - length.len()..LENGTH_END].copy_from_slice(&length);
    let checksum = crc32c::crc32c(&batch[CHECKSUM.end..]);
    batch[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    batch
}

fn size_hint(record: &OutgoingRecord) -> usize {
    let headers = record.headers.iter();
    let headers = headers.map(|(name, value)| name.len() + value.len() + 4);
    let value = record.value.as_ref().map_or(0, Vec::len);
    record.key.len() + value + headers.sum::<usize>() + 16
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_varint(out, i64::try_from(length).unwrap_or(i64::MAX));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend(bytes);
}

fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::connection::NEWEST_PRODUCE;
    use crate::record_batch::read;

    fn record() -> impl Strategy<Value = OutgoingRecord> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let headers = prop::collection::btree_map("[a-z]{1,80}", bytes(), 0..5);
        (bytes(), prop::option::of(bytes()), headers).prop_map(|(key, value, headers)| {
            OutgoingRecord {
                key,
                value,
                headers,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(records in prop::collection::vec(record(), 1..200)) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
            let read = read(&batch(&records, now), 0, &[]).unwrap();
            prop_assert_eq!(read.next_offset, i64::try_from(records.len()).unwrap());
            for ((offset, sent), read) in (0_i64..).zip(&records).zip(&read.records) {
                prop_assert_eq!(read.offset, offset);
                prop_assert_eq!(read.timestamp.unix_timestamp_nanos(), 1_700_000_000_123_000_000);
                prop_assert_eq!(read.key.as_ref(), Some(&sent.key));
                prop_assert_eq!(&read.value, &sent.value);
                prop_assert_eq!(&read.headers, &sent.headers);
            }
        }
    }

    #[test]
    fn a_throttled_answer_is_an_answer() {
        let answer = |code: i16, throttle: i32| {
            let mut frame = 7_i32.to_be_bytes().to_vec();
            frame.extend(1_i32.to_be_bytes());
            put_text(&mut frame, "t");
            frame.extend(1_i32.to_be_bytes());
            frame.extend(0_i32.to_be_bytes());
            frame.extend(code.to_be_bytes());
            frame.extend(41_i64.to_be_bytes());
            frame.extend((-1_i64).to_be_bytes());
            frame.extend(0_i64.to_be_bytes());
            frame.extend(throttle.to_be_bytes());
            frame
        };
        let (offset, throttle) = appended(&answer(0, 1_500), NEWEST_PRODUCE).unwrap();
        assert_eq!((offset.unwrap(), throttle), (41, 1_500));
        let (refused, throttle) = appended(&answer(10, 0), NEWEST_PRODUCE).unwrap();
        assert!(refused.unwrap_err().is_too_large());
        assert_eq!(throttle, 0);
    }
}
