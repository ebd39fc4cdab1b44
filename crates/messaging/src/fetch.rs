//! Fetch requests. No deadlines here; see [`crate::reader`].

use std::ops::Range;
use std::time::Duration;

use uuid::Uuid;

use crate::connection::{Connection, Dialect, Leader, READ_COMMITTED, accepted, one};
use crate::error::KafkaError;
use crate::record_batch::{Aborted, Batches, read};
use crate::wire::{Fields, put_compact_length, put_text};

/// What one fetch brought, and where the partition ends.
pub(crate) struct Answer {
    frame: Vec<u8>,
    /// Where in the frame the batches are.
    batches: Range<usize>,
    aborted: Vec<Aborted>,
    /// `None` of an answer that brings nothing, not even this, because of a quota.
    pub(crate) ends: Option<Ends>,
    /// For how long a quota demands that nothing more is asked.
    pub(crate) throttle: Duration,
}

/// Where a partition ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
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

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) max_bytes: i32,
    pub(crate) wait_ms: i32,
}

impl Wanted<'_> {
    fn body(&self, topic_id: Option<Uuid>) -> Vec<u8> {
        let mut body = Vec::with_capacity(128 + self.topic.len());
        body.extend((-1_i32).to_be_bytes()); // a client, no replica
        body.extend(self.wait_ms.to_be_bytes());
        body.extend(1_i32.to_be_bytes()); // bytes to wait for
        body.extend(self.max_bytes.to_be_bytes());
        body.push(READ_COMMITTED);
        let Some(topic_id) = topic_id else {
            body.extend(1_i32.to_be_bytes());
            put_text(&mut body, self.topic);
            body.extend(1_i32.to_be_bytes());
            body.extend(self.partition.to_be_bytes());
            body.extend(self.offset.to_be_bytes());
            body.extend(self.max_bytes.to_be_bytes());
            return body;
        };
        body.extend(0_i32.to_be_bytes()); // no session,
        body.extend((-1_i32).to_be_bytes()); // and none to begin
        put_compact_length(&mut body, 1);
        body.extend(topic_id.as_bytes());
        put_compact_length(&mut body, 1);
        body.extend(self.partition.to_be_bytes());
        body.extend((-1_i32).to_be_bytes()); // whatever the leader's epoch
        body.extend(self.offset.to_be_bytes());
        body.extend((-1_i32).to_be_bytes()); // of the record before,
        body.extend((-1_i64).to_be_bytes()); // and of a follower's log: unknown
        body.extend(self.max_bytes.to_be_bytes());
        body.extend([0, 0]); // no tagged fields of the partition and of the topic
        put_compact_length(&mut body, 0); // nothing to forget
        put_compact_length(&mut body, 0); // no rack
        body.push(0); // no tagged fields
        body
    }
}

impl Leader {
    /// Fetches from an offset on, as soon as there is something or after a while.
    pub(crate) async fn fetch(&mut self, wanted: Wanted<'_>) -> Result<Answer, KafkaError> {
        let dialect = match self.topic_id {
            Some(_) => Dialect::Ids,
            None => Dialect::Names,
        };
        let body = wanted.body(self.topic_id);
        let flexible = dialect.flexible();
        let frame = self
            .connection
            .request(dialect.fetch(), flexible, &body)
            .await?;
        let (throttle, found) = found(&frame, flexible)?;
        let (batches, aborted, ends) = match found {
            Some(found) => (found.batches, found.aborted, Some(found.ends)),
            None => (0..0, Vec::new(), None),
        };
        Ok(Answer {
            frame,
            batches,
            aborted,
            ends,
            throttle: Connection::throttle(&mut self.connection, throttle),
        })
    }
}

struct Found {
    batches: Range<usize>,
    aborted: Vec<Aborted>,
    ends: Ends,
}

/// What an answer brings, and for how many milliseconds nothing more may be asked. Where that is so it
/// may bring nothing, not even the topic that was asked for (KIP-219).
fn found(frame: &[u8], flexible: bool) -> Result<(i32, Option<Found>), KafkaError> {
    let mut fields = Fields::of_answer(frame, flexible)?;
    let throttle = fields.bytes.i32()?;
    if flexible {
        accepted(fields.bytes.i16()?)?;
        let _session = fields.bytes.i32()?;
    }
    let topics = fields.count()?;
    if topics == 0 && throttle > 0 {
        return Ok((throttle, None));
    }
    one(topics)?;
    if flexible {
        let _topic = fields.bytes.uuid()?;
    } else {
        let _topic = fields.text()?;
    }
    one(fields.count()?)?;
    let (_partition, code) = (fields.bytes.i32()?, fields.bytes.i16()?);
    let (high_watermark, stable_offset) = (fields.bytes.i64()?, fields.bytes.i64()?);
    accepted(code)?;
    if flexible {
        let _log_start = fields.bytes.i64()?;
    }
    let mut aborted = Vec::new();
    for _ in 0..fields.count()? {
        let (producer_id, first_offset) = (fields.bytes.i64()?, fields.bytes.i64()?);
        fields.tags()?;
        aborted.push(Aborted {
            producer_id,
            first_offset,
        });
    }
    if flexible {
        let _preferred_replica = fields.bytes.i32()?;
    }
    let batches = fields.nullable_bytes()?.unwrap_or_default().len();
    let end = frame.len() - fields.bytes.0.len();
    let found = Found {
        batches: end - batches..end,
        aborted,
        ends: Ends {
            high_watermark,
            stable_offset: stable_offset.min(high_watermark),
        },
    };
    Ok((throttle, Some(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_topics_is_one_only_while_a_quota_counts() {
        let answer = |throttle: i32| {
            let mut frame = 7_i32.to_be_bytes().to_vec();
            frame.extend(throttle.to_be_bytes());
            frame.extend(0_i32.to_be_bytes());
            frame
        };
        let (throttle, found_nothing) = found(&answer(250), false).unwrap();
        assert_eq!((throttle, found_nothing.is_none()), (250, true));
        assert!(found(&answer(0), false).is_err());

        let flexible = |throttle: i32| {
            let mut frame = 7_i32.to_be_bytes().to_vec();
            frame.push(0); // tagged fields of the header
            frame.extend(throttle.to_be_bytes());
            frame.extend([0; 2]);
            frame.extend([0; 4]);
            frame.extend([1, 0]); // no topics, no tagged fields
            frame
        };
        let (throttle, found_nothing) = found(&flexible(250), true).unwrap();
        assert_eq!((throttle, found_nothing.is_none()), (250, true));
        assert!(found(&flexible(0), true).is_err());
    }
}
