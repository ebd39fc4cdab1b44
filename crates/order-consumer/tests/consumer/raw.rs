//! Record batches as they lie in Kafka, made by hand: brokers look at no more than their outside.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const UNPACKED: i16 = 0;
pub(crate) const LZ4: i16 = 3;
pub(crate) const ZSTD: i16 = 4;

/// A record, as a batch holds it.
pub(crate) struct RawRecord<'a> {
    /// Its place in the batch, by its own words.
    pub(crate) delta: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: &'a [u8],
    pub(crate) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(
        out,
        bytes.map_or(-1, |bytes| bytes.len().try_into().unwrap()),
    );
    out.extend(bytes.unwrap_or_default());
}

/// The records one after the other, to be packed or not.
pub(crate) fn body(records: &[RawRecord<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        let mut bytes = vec![0];
        put_varint(&mut bytes, 0);
        put_varint(&mut bytes, record.delta);
        put_bytes(&mut bytes, record.key);
        put_bytes(&mut bytes, Some(record.value));
        put_varint(&mut bytes, record.headers.len().try_into().unwrap());
        for (name, value) in &record.headers {
            put_bytes(&mut bytes, Some(name.as_bytes()));
            put_bytes(&mut bytes, *value);
        }
        put_bytes(&mut body, Some(&bytes));
    }
    body
}

fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap().to_be_bytes()
}

/// Appends a batch that says that it has `count` records.
pub(crate) async fn produce(
    broker: &str,
    (topic, partition): (&str, i32),
    compression: i16,
    count: i32,
    body: &[u8],
) {
    let mut checked = compression.to_be_bytes().to_vec();
    checked.extend((count - 1).to_be_bytes());
    let now = time::OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    checked.extend([now.to_be_bytes(), now.to_be_bytes()].concat());
    checked.extend((-1_i64).to_be_bytes()); // no producer's id
    checked.extend([0xff; 6]); // nor epoch, nor sequence
    checked.extend(count.to_be_bytes());
    checked.extend(body);
    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend(length(checked.len() + 9));
    batch.extend((-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&checked).to_be_bytes());
    batch.extend(checked);

    // Produce, version 7, request 1, of nobody, in no transaction, to be written by all replicas.
    let mut request = [0_i16.to_be_bytes(), 7_i16.to_be_bytes()].concat();
    request.extend(1_i32.to_be_bytes());
    request.extend([(-1_i16).to_be_bytes(); 3].concat());
    request.extend([10_000_i32.to_be_bytes(), 1_i32.to_be_bytes()].concat());
    request.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
    request.extend(topic.bytes());
    request.extend([1_i32.to_be_bytes(), partition.to_be_bytes()].concat());
    request.extend(length(batch.len()));
    request.extend(batch);
    let mut stream = TcpStream::connect(broker).await.unwrap();
    stream.write_all(&length(request.len())).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut answer = vec![0; stream.read_u32().await.unwrap().try_into().unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    // Behind the request's number, one topic with its name, and one partition with its number.
    let error = &answer[4 + 4 + 2 + topic.len() + 4 + 4..][..2];
    assert_eq!(error, 0_i16.to_be_bytes(), "the broker refuses the batch");
}
