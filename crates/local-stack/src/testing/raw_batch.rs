//! Record batches as they lie in Kafka, made by hand: other clients write what ours would not, and
//! brokers look at no more than their outside.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where the checksum lies, and behind it what it is of.
const CHECKSUM: std::ops::Range<usize> = 17..21;

/// A record, as a batch holds it.
#[derive(Debug, Clone, Default)]
pub struct RawRecord<'a> {
    pub timestamp_delta: i64,
    /// Its place in the batch, by its own words.
    pub offset_delta: i64,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl RawRecord<'_> {
    /// Appends it to the body of a batch, to be packed or not.
    ///
    /// # Panics
    /// Not with what fits into memory.
    pub fn put(&self, body: &mut Vec<u8>) {
        let mut bytes = vec![0];
        put_varint(&mut bytes, self.timestamp_delta);
        put_varint(&mut bytes, self.offset_delta);
        put_bytes(&mut bytes, self.key);
        put_bytes(&mut bytes, Some(self.value));
        let headers = self.headers.len().try_into().expect("a few");
        put_varint(&mut bytes, headers);
        for (name, value) in &self.headers {
            put_bytes(&mut bytes, Some(name));
            put_bytes(&mut bytes, *value);
        }
        put_bytes(body, Some(&bytes));
    }
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    loop {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let length = bytes.map_or(-1, |bytes| {
        bytes.len().try_into().expect("fits into memory")
    });
    put_varint(out, length);
    out.extend(bytes.unwrap_or_default());
}

/// A batch without gaps.
#[derive(Debug, Clone, Copy)]
pub struct RawBatch<'a> {
    pub base_offset: i64,
    /// As in the format; the lowest bits name the compression.
    pub attributes: i16,
    pub first_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    /// How many records it says it has.
    pub count: i32,
    pub body: &'a [u8],
}

impl<'a> RawBatch<'a> {
    /// A batch to be appended: of no producer that counts, written now.
    ///
    /// # Panics
    /// Before 1970.
    pub fn new(attributes: i16, count: i32, body: &'a [u8]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock that is set").as_millis();
        let now = now.try_into().expect("some millions of years to go");
        Self {
            base_offset: 0,
            attributes,
            first_timestamp: now,
            max_timestamp: now,
            producer_id: -1,
            count,
            body,
        }
    }

    /// With a checksum that matches.
    ///
    /// # Panics
    /// When it is larger than the format knows.
    pub fn bytes(&self) -> Vec<u8> {
        let mut checked = self.attributes.to_be_bytes().to_vec();
        checked.extend((self.count - 1).to_be_bytes());
        checked.extend(self.first_timestamp.to_be_bytes());
        checked.extend(self.max_timestamp.to_be_bytes());
        checked.extend(self.producer_id.to_be_bytes());
        checked.extend([0xff; 6]); // neither epoch nor sequence
        checked.extend(self.count.to_be_bytes());
        checked.extend(self.body);
        let mut batch = self.base_offset.to_be_bytes().to_vec();
        batch.extend(length(checked.len() + 9));
        batch.extend((-1_i32).to_be_bytes());
        batch.push(2);
        batch.extend([0; CHECKSUM.end - CHECKSUM.start]);
        batch.extend(checked);
        set_checksum(&mut batch);
        batch
    }

    /// Appends it to a partition.
    ///
    /// # Panics
    /// When the broker refuses it.
    pub async fn produce(&self, broker: &str, (topic, partition): (&str, i32)) {
        let batch = self.bytes();
        // Produce, version 7, request 1, of nobody, in no transaction, to be written by all replicas.
        let mut request = [0_i16.to_be_bytes(), 7_i16.to_be_bytes()].concat();
        request.extend(1_i32.to_be_bytes());
        request.extend([(-1_i16).to_be_bytes(); 3].concat());
        request.extend([10_000_i32.to_be_bytes(), 1_i32.to_be_bytes()].concat());
        let name = i16::try_from(topic.len()).expect("a topic's name is short");
        request.extend(name.to_be_bytes());
        request.extend(topic.bytes());
        request.extend([1_i32.to_be_bytes(), partition.to_be_bytes()].concat());
        request.extend(length(batch.len()));
        request.extend(batch);
        let exchange = async {
            let mut stream = TcpStream::connect(broker).await?;
            stream.write_all(&length(request.len())).await?;
            stream.write_all(&request).await?;
            let length = stream.read_u32().await?;
            let mut answer = vec![0; length as usize];
            stream.read_exact(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = exchange.await.expect("the broker answers");
        // Behind the request's number, one topic with its name, and one partition with its number.
        let error = &answer[4 + 4 + 2 + topic.len() + 4 + 4..][..2];
        assert_eq!(error, 0_i16.to_be_bytes(), "the broker refuses the batch");
    }
}

/// Sets the checksum of a batch that was changed.
pub fn set_checksum(batch: &mut [u8]) {
    let checksum = crc32c::crc32c(&batch[CHECKSUM.end..]);
    batch[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}

fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes)
        .expect("fits into a frame")
        .to_be_bytes()
}
