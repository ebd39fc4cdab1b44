//! Fetch requests to the leader of a partition, over a connection of their own.
//!
//! Version 4 of Fetch and of Metadata: the oldest that know transactions, which every broker since
//! Kafka 0.11 speaks. No deadlines here; see [`crate::reader`].

use std::io;
use std::ops::Range;

use rskafka::client::error::ProtocolError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::KafkaError;
use crate::record_batch::{Aborted, Batches, read};
use crate::wire::{Bytes, Malformed, put_text};

const FETCH: i16 = 1;
const METADATA: i16 = 3;
const VERSION: i16 = 4;
const CLIENT_ID: &str = "transactional-outbox";
const READ_COMMITTED: u8 = 1;

/// Largest answer taken from a broker. Bounds what one fetch can cost in memory.
const MAX_FRAME_BYTES: i32 = 64 * 1024 * 1024;

/// What one fetch brought, and where the partition ends.
pub(crate) struct Answer {
    frame: Vec<u8>,
    /// Where in the frame the batches are.
    batches: Range<usize>,
    aborted: Vec<Aborted>,
    pub(crate) high_watermark: i64,
    /// Below it every transaction has ended; nothing is delivered from it on.
    pub(crate) stable_offset: i64,
}

impl Answer {
    /// Reads what was fetched from `offset` on.
    pub(crate) fn read(&self, offset: i64) -> Result<Batches, KafkaError> {
        let batches = &self.frame[self.batches.clone()];
        read(batches, offset, &self.aborted).map_err(|unreadable| KafkaError::Unreadable {
            offset: unreadable.offset,
            end: unreadable.end,
            reason: unreadable.reason.to_string(),
        })
    }
}

/// A connection to one broker.
pub(crate) struct Connection {
    stream: TcpStream,
    last_id: i32,
}

fn broken(error: &io::Error) -> KafkaError {
    KafkaError::Connection(error.to_string())
}

impl From<Malformed> for KafkaError {
    fn from(error: Malformed) -> Self {
        Self::Connection(format!("an answer with {error}"))
    }
}

fn accepted(code: i16) -> Result<(), KafkaError> {
    match ProtocolError::new(code) {
        None => Ok(()),
        Some(code) => Err(KafkaError::Broker { code, detail: None }),
    }
}

impl Connection {
    async fn open(address: &str) -> Result<Self, KafkaError> {
        let failed = |error: io::Error| KafkaError::Connection(format!("{address}: {error}"));
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream, last_id: 0 })
    }

    /// Finds the leader of a partition through the first of `brokers` that answers.
    pub(crate) async fn to_leader(
        brokers: &[String],
        topic: &str,
        partition: i32,
    ) -> Result<Self, KafkaError> {
        let mut failure = KafkaError::Connection("no brokers".to_owned());
        for broker in brokers {
            let leader = async {
                let mut connection = Self::open(broker).await?;
                connection.leader(topic, partition).await
            };
            match leader.await {
                Ok(address) => return Self::open(&address).await,
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The address of a partition's leader.
    async fn leader(&mut self, topic: &str, partition: i32) -> Result<String, KafkaError> {
        let mut body = 1_i32.to_be_bytes().to_vec();
        put_text(&mut body, topic);
        body.push(0); // do not create it
        let frame = self.request(METADATA, &body).await?;
        let mut bytes = Bytes(&frame);
        let (_correlation, _throttle) = (bytes.i32()?, bytes.i32()?);
        let mut brokers = Vec::new();
        for _ in 0..bytes.count()? {
            let (id, host, port) = (bytes.i32()?, bytes.text()?, bytes.i32()?);
            let _rack = bytes.text()?;
            brokers.push((id, host, port));
        }
        let (_cluster, _controller) = (bytes.text()?, bytes.i32()?);
        for _ in 0..bytes.count()? {
            let code = bytes.i16()?;
            let (name, _internal) = (bytes.text()?, bytes.i8()?);
            if name == topic {
                accepted(code)?;
            }
            for _ in 0..bytes.count()? {
                let code = bytes.i16()?;
                let (number, leader) = (bytes.i32()?, bytes.i32()?);
                for _replicas_then_in_sync in 0..2 {
                    let count = bytes.count()?;
                    bytes.take(count.saturating_mul(4))?;
                }
                if name == topic && number == partition {
                    // A replica that is down does not keep the leader from answering.
                    if ProtocolError::new(code) != Some(ProtocolError::ReplicaNotAvailable) {
                        accepted(code)?;
                    }
                    return brokers
                        .iter()
                        .find(|(id, ..)| *id == leader)
                        .map(|(_, host, port)| format!("{host}:{port}"))
                        .ok_or(KafkaError::Broker {
                            code: ProtocolError::LeaderNotAvailable,
                            detail: None,
                        });
                }
            }
        }
        accepted(3) // unknown topic or partition
            .map(|()| String::new())
    }

    /// Fetches from `offset` on, as soon as there is something or after `wait_ms`.
    pub(crate) async fn fetch(
        &mut self,
        (topic, partition): (&str, i32),
        offset: i64,
        max_bytes: i32,
        wait_ms: i32,
    ) -> Result<Answer, KafkaError> {
        let mut body = Vec::with_capacity(64 + topic.len());
        body.extend((-1_i32).to_be_bytes()); // a client, no replica
        body.extend(wait_ms.to_be_bytes());
        body.extend(1_i32.to_be_bytes()); // bytes to wait for
        body.extend(max_bytes.to_be_bytes());
        body.push(READ_COMMITTED);
        body.extend(1_i32.to_be_bytes());
        put_text(&mut body, topic);
        body.extend(1_i32.to_be_bytes());
        body.extend(partition.to_be_bytes());
        body.extend(offset.to_be_bytes());
        body.extend(max_bytes.to_be_bytes());
        let frame = self.request(FETCH, &body).await?;

        let mut bytes = Bytes(&frame);
        let (_correlation, _throttle) = (bytes.i32()?, bytes.i32()?);
        let one = |count| match count {
            1 => Ok(()),
            other => Err(Malformed::Length(i64::try_from(other).unwrap_or(i64::MAX))),
        };
        one(bytes.count()?)?;
        let _topic = bytes.text()?;
        one(bytes.count()?)?;
        let (_partition, code) = (bytes.i32()?, bytes.i16()?);
        let (high_watermark, stable_offset) = (bytes.i64()?, bytes.i64()?);
        accepted(code)?;
        let mut aborted = Vec::new();
        for _ in 0..bytes.count()? {
            let (producer_id, first_offset) = (bytes.i64()?, bytes.i64()?);
            aborted.push(Aborted {
                producer_id,
                first_offset,
            });
        }
        let batches = bytes.bytes()?.unwrap_or_default().len();
        let end = frame.len() - bytes.0.len();
        Ok(Answer {
            batches: end - batches..end,
            frame,
            aborted,
            high_watermark,
            stable_offset,
        })
    }

    /// Sends a request and reads its answer, which begins with the request's number. After an error,
    /// or when dropped midway, the connection must not be used again.
    async fn request(&mut self, api: i16, body: &[u8]) -> Result<Vec<u8>, KafkaError> {
        self.last_id = self.last_id.wrapping_add(1);
        let mut frame = vec![0; 4];
        frame.extend(api.to_be_bytes());
        frame.extend(VERSION.to_be_bytes());
        frame.extend(self.last_id.to_be_bytes());
        put_text(&mut frame, CLIENT_ID);
        frame.extend(body);
        let length = i32::try_from(frame.len() - 4).unwrap_or(i32::MAX);
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let exchange = async {
            self.stream.write_all(&frame).await?;
            self.stream.read_i32().await
        };
        let length = exchange.await.map_err(|error| broken(&error))?;
        let length = usize::try_from(length)
            .ok()
            .filter(|_| length <= MAX_FRAME_BYTES)
            .ok_or_else(|| KafkaError::Connection(format!("an answer of {length} bytes")))?;
        let mut answer = vec![0; length];
        let read = self.stream.read_exact(&mut answer).await;
        read.map_err(|error| broken(&error))?;
        if Bytes(&answer).i32()? != self.last_id {
            return Err(KafkaError::Connection(
                "an answer to another request".to_owned(),
            ));
        }
        Ok(answer)
    }
}
