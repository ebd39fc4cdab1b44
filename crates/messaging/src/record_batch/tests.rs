use std::io::Write;

use local_stack::testing::{RawBatch, RawRecord, set_checksum};
use proptest::prelude::*;

use super::{Aborted, Batches, InvalidBatch, read};
use crate::record::{IncomingRecord, LARGEST_RECORD};

fn put_record(body: &mut Vec<u8>, delta: usize, key: Option<&[u8]>, value: &[u8]) {
    let record = RawRecord {
        timestamp_delta: 5,
        offset_delta: i64::try_from(delta).unwrap(),
        key,
        value,
        headers: vec![
            (b"a", Some(b"1")),
            (b"a", Some(b"2")),
            (b"none", None),
            (b"\xff", Some(b"3")),
        ],
    };
    record.put(body);
}

/// A batch of so many records, without gaps; `attributes` as in the format.
fn sealed(base: i64, attributes: i16, producer: i64, count: usize, body: &[u8]) -> Vec<u8> {
    let batch = RawBatch {
        base_offset: base,
        attributes,
        first_timestamp: 1_000,
        max_timestamp: 9_000,
        producer_id: producer,
        count: i32::try_from(count).unwrap(),
        body,
    };
    batch.bytes()
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
    let outlined = |record: &IncomingRecord| record.value.is_none() && record.headers.is_empty();
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
    set_checksum(&mut compacted);
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
    gzip.write_all(&body).unwrap();
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
        set_checksum(&mut batch);
        let _ = read(&batch, 0, &[]);
    }
}
