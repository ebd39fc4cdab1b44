//! A connection to one broker, and the requests that carry no records. Only the search for a broker
//! that answers has a deadline here; see [`crate::reader`].
//!
//! If brokers know topics by id (since Kafka 3.1), records are fetched by topic id, and a topic
//! that was deleted and created again is another one. Otherwise version 4 of Fetch and of Metadata
//! is used: the oldest that know transactions, which every broker since Kafka 0.11 has.

use std::io;
use std::time::Duration;

use rskafka::client::error::ProtocolError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

use crate::brokers::Address;
use crate::error::KafkaError;
use crate::transport::{Race, connect};
use crate::wire::{Fields, Malformed, put_compact_length, put_compact_text, put_text};

pub(crate) const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const CLIENT_ID: &str = "transactional-outbox";
pub(crate) const READ_COMMITTED: u8 = 1;

/// The version of Fetch and Metadata where topics are known by name.
const OLD: i16 = 4;

/// The first version of Produce that carries record batches of today's format (Kafka 0.11).
const OLDEST_PRODUCE: i16 = 3;
/// A broker that speaks this one answers at once when a quota counts, and says how long to wait. Earlier
/// versions delay the answer.
pub(crate) const NEWEST_PRODUCE: i16 = 7;

/// Largest answer taken from a broker. Bounds what one fetch can cost in memory.
const MAX_FRAME_BYTES: i32 = 64 * 1024 * 1024;

/// Brokers, and those a broker has named as leaders: each gets its turn soon, even while others are mute.
pub(crate) const BROKERS: Race = Race {
    stagger: Duration::from_millis(500),
    again: Some(Duration::from_secs(2)),
    deadline: Duration::from_secs(10),
};

/// In which of the two ways this broker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Metadata 12 and Fetch 13, flexible and by topic id.
    Ids,
    /// Version 4 of both.
    Names,
}

impl Dialect {
    fn metadata(self) -> (i16, i16) {
        (METADATA, if self.flexible() { 12 } else { OLD })
    }

    pub(crate) fn fetch(self) -> (i16, i16) {
        (FETCH, if self.flexible() { 13 } else { OLD })
    }

    pub(crate) fn flexible(self) -> bool {
        self == Self::Ids
    }
}

/// A connection to one broker.
pub(crate) struct Connection {
    stream: TcpStream,
    last_id: i32,
    pub(crate) dialect: Dialect,
    /// In which Produce is spoken.
    pub(crate) produce_version: i16,
    /// A quota of Kafka wants nothing to be asked before.
    resume_at: Option<Instant>,
}

/// What a broker knows of the cluster, and of one partition.
pub(crate) struct Metadata {
    pub(crate) brokers: Vec<(i32, Address)>,
    /// The topic's id, where it has one, and the leader of the partition.
    leader: Result<(Option<Uuid>, i32), KafkaError>,
}

impl Metadata {
    #[cfg(test)]
    pub(crate) fn of_brokers(brokers: Vec<(i32, Address)>) -> Self {
        Self {
            brokers,
            leader: Ok((None, -1)),
        }
    }

    /// Where the leader listens, and the id of the topic.
    fn leader(&self) -> Result<(Address, Option<Uuid>), KafkaError> {
        let (topic_id, leader) = self.leader.clone()?;
        let found = self.brokers.iter().find(|(id, _)| *id == leader);
        let (_, address) = found.ok_or(KafkaError::Broker {
            code: ProtocolError::LeaderNotAvailable,
            detail: None,
        })?;
        Ok((address.clone(), topic_id))
    }
}

fn broken(error: &io::Error) -> KafkaError {
    KafkaError::Connection(error.to_string())
}

impl From<Malformed> for KafkaError {
    fn from(error: Malformed) -> Self {
        Self::Connection(format!("an answer with {error}"))
    }
}

pub(crate) fn accepted(code: i16) -> Result<(), KafkaError> {
    match ProtocolError::new(code) {
        None => Ok(()),
        Some(code) => Err(KafkaError::Broker { code, detail: None }),
    }
}

/// A connection to the leader of a partition, and the topic's id where brokers know it.
pub(crate) struct Leader {
    pub(crate) connection: Connection,
    pub(crate) topic_id: Option<Uuid>,
}

impl Leader {
    /// Finds the leader through whichever of `brokers` answers, and connects to it. `learn` gets all
    /// brokers that there are.
    pub(crate) async fn find(
        brokers: &[Address],
        topic: &str,
        partition: i32,
        learn: impl Fn(&Metadata),
    ) -> Result<Self, KafkaError> {
        let learn = &learn;
        let asking = BROKERS.run(brokers, |broker| async move {
            let mut connection = Connection::open(&broker).await?;
            let metadata = connection.metadata(Some((topic, partition))).await?;
            learn(&metadata);
            metadata.leader()
        });
        let (address, topic_id) = asking.await?;
        let connection = BROKERS
            .run(&[address], |leader| async move {
                Connection::open(&leader).await
            })
            .await?;
        // One that is not as new as the others knows topics by name.
        let topic_id = topic_id.filter(|_| connection.dialect == Dialect::Ids);
        Ok(Self {
            connection,
            topic_id,
        })
    }
}

impl Connection {
    /// Connects and makes sure that the broker answers.
    pub(crate) async fn open(address: &Address) -> Result<Self, KafkaError> {
        connect(address, |stream| async move {
            let mut connection = Self {
                stream,
                last_id: 0,
                dialect: Dialect::Names,
                produce_version: OLDEST_PRODUCE,
                resume_at: None,
            };
            connection.choose_versions().await?;
            Ok(connection)
        })
        .await
    }

    /// The address that answers.
    pub(crate) fn peer(&self) -> Result<Address, KafkaError> {
        let peer = self.stream.peer_addr().map_err(|error| broken(&error))?;
        Ok(Address {
            host: peer.ip().to_string(),
            port: peer.port(),
        })
    }

    /// Waits for as long as a quota of Kafka demands (KIP-219).
    pub(crate) async fn unthrottled(&self) {
        if let Some(resume_at) = self.resume_at {
            tokio::time::sleep_until(resume_at).await;
        }
    }

    /// Notes for how long a quota demands that nothing is asked.
    pub(crate) fn throttle(&mut self, milliseconds: i32) -> Duration {
        let throttle = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0));
        self.resume_at = (!throttle.is_zero()).then(|| Instant::now() + throttle);
        throttle
    }

    async fn choose_versions(&mut self) -> Result<(), KafkaError> {
        let frame = self.request((API_VERSIONS, 0), false, &[]).await?;
        let mut bytes = Fields::of_answer(&frame, false)?.bytes;
        accepted(bytes.i16()?)?;
        let known = |version: (i16, i16), (api, lowest, highest): (i16, i16, i16)| {
            version.0 == api && (lowest..=highest).contains(&version.1)
        };
        let mut ids = [Dialect::Ids.metadata(), Dialect::Ids.fetch()].map(|it| (it, false));
        for _ in 0..bytes.count()? {
            let offered = (bytes.i16()?, bytes.i16()?, bytes.i16()?);
            for (version, is_known) in &mut ids {
                *is_known |= known(*version, offered);
            }
            if known((PRODUCE, NEWEST_PRODUCE), offered) {
                self.produce_version = NEWEST_PRODUCE;
            }
        }
        if ids.iter().all(|(_, is_known)| *is_known) {
            self.dialect = Dialect::Ids;
        }
        Ok(())
    }

    /// Asks what there is: of a partition, or of the brokers alone.
    pub(crate) async fn metadata(
        &mut self,
        of: Option<(&str, i32)>,
    ) -> Result<Metadata, KafkaError> {
        let flexible = self.dialect.flexible();
        let mut body = Vec::new();
        let topics = of.map(|(topic, _)| topic);
        if flexible {
            put_compact_length(&mut body, topics.iter().len());
        } else {
            body.extend(i32::from(topics.is_some()).to_be_bytes());
        }
        if let Some(topic) = topics {
            if flexible {
                body.extend(Uuid::nil().as_bytes());
                put_compact_text(&mut body, topic);
                body.push(0); // no tagged fields
            } else {
                put_text(&mut body, topic);
            }
        }
        body.push(0); // do not create it
        if flexible {
            body.extend([0, 0]); // no word on rights, no tagged fields
        }
        let frame = self
            .request(self.dialect.metadata(), flexible, &body)
            .await?;
        let mut fields = Fields::of_answer(&frame, flexible)?;
        let _throttle = fields.bytes.i32()?;
        let mut brokers = Vec::new();
        for _ in 0..fields.count()? {
            let (id, host, port) = (fields.bytes.i32()?, fields.text()?, fields.bytes.i32()?);
            let _rack = fields.text()?;
            fields.tags()?;
            let (host, port) = (host.to_owned(), u16::try_from(port).unwrap_or(0));
            brokers.push((id, Address { host, port }));
        }
        let (_cluster, _controller) = (fields.text()?, fields.bytes.i32()?);
        let mut leader = Err(KafkaError::Broker {
            code: ProtocolError::UnknownTopicOrPartition,
            detail: None,
        });
        for _ in 0..fields.count()? {
            let code = fields.bytes.i16()?;
            let name = fields.text()?;
            let topic_id = if flexible {
                Some(fields.bytes.uuid()?)
            } else {
                None
            };
            let topic_id = topic_id.filter(|id| !id.is_nil());
            let _internal = fields.bytes.i8()?;
            let asked = of.filter(|(topic, _)| *topic == name);
            if asked.is_some()
                && let Err(error) = accepted(code)
            {
                leader = Err(error);
            }
            for _ in 0..fields.count()? {
                let (number, found) = partition(&mut fields)?;
                if asked.is_some_and(|(_, partition)| partition == number) {
                    leader = found.map(|found| (topic_id, found));
                }
            }
            if flexible {
                let _rights = fields.bytes.i32()?;
            }
            fields.tags()?;
        }
        Ok(Metadata { brokers, leader })
    }

    /// The offset at a time in milliseconds, or at one of the partition's ends.
    pub(crate) async fn offset(
        &mut self,
        (topic, partition): (&str, i32),
        at: i64,
    ) -> Result<i64, KafkaError> {
        let mut body = (-1_i32).to_be_bytes().to_vec(); // a client, no replica
        body.push(READ_COMMITTED);
        body.extend(1_i32.to_be_bytes());
        put_text(&mut body, topic);
        body.extend(1_i32.to_be_bytes());
        body.extend(partition.to_be_bytes());
        body.extend(at.to_be_bytes());
        let frame = self.request((LIST_OFFSETS, 2), false, &body).await?;
        let mut fields = Fields::of_answer(&frame, false)?;
        let throttle = fields.bytes.i32()?;
        one(fields.count()?)?;
        let _topic = fields.text()?;
        one(fields.count()?)?;
        let (_partition, code) = (fields.bytes.i32()?, fields.bytes.i16()?);
        let (_time, offset) = (fields.bytes.i64()?, fields.bytes.i64()?);
        accepted(code)?;
        self.throttle(throttle);
        Ok(offset)
    }

    /// Sends a request in this version and reads its answer, which begins with the request's number.
    /// After an error, or when dropped midway, the connection must not be used again.
    pub(crate) async fn request(
        &mut self,
        (api, version): (i16, i16),
        flexible: bool,
        body: &[u8],
    ) -> Result<Vec<u8>, KafkaError> {
        self.last_id = self.last_id.wrapping_add(1);
        let mut frame = vec![0; 4];
        frame.extend(api.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(self.last_id.to_be_bytes());
        put_text(&mut frame, CLIENT_ID);
        if flexible {
            frame.push(0); // no tagged fields
        }
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
        if Fields::of_answer(&answer, false)?.bytes.0.len() + 4 != answer.len()
            || !answer.starts_with(&self.last_id.to_be_bytes())
        {
            return Err(KafkaError::Connection(
                "an answer to another request".to_owned(),
            ));
        }
        Ok(answer)
    }
}

/// A partition's number, and its leader.
fn partition(fields: &mut Fields<'_>) -> Result<(i32, Result<i32, KafkaError>), Malformed> {
    let code = fields.bytes.i16()?;
    let (number, leader) = (fields.bytes.i32()?, fields.bytes.i32()?);
    if fields.flexible {
        let _leader_epoch = fields.bytes.i32()?;
    }
    fields.skip_numbers()?; // replicas
    fields.skip_numbers()?; // those in sync
    if fields.flexible {
        fields.skip_numbers()?; // those that are offline
    }
    fields.tags()?;
    // A replica that is down does not keep the leader from answering.
    let away = ProtocolError::new(code) == Some(ProtocolError::ReplicaNotAvailable);
    let accepted = if away { Ok(()) } else { accepted(code) };
    Ok((number, accepted.map(|()| leader)))
}

/// The only thing that was asked for.
pub(crate) fn one(count: usize) -> Result<(), Malformed> {
    match count {
        1 => Ok(()),
        other => Err(Malformed::Length(i64::try_from(other).unwrap_or(i64::MAX))),
    }
}
