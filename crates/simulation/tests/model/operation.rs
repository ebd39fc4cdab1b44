//! What a session can do, with values instead of names of variables.

use std::time::Duration;

use domain::{EventId, NewEvent, Slot};
use simulation::database::Database;
use storage::inbox::dead_letters::{Cause, DeadLetter, Ending};
use storage::inbox::{Progress, Stream};
use storage::lease::MemberId;
use storage::outbox::{BatchLimits, Destination, Done, Hold, HoldCause, ReplayBounds, RowVersion};
use storage::outbox::{Settled, TopicKey};
use uuid::Uuid;

/// The scope of the slots.
pub(crate) const SLOTS: &str = "outbox-relay";
pub(crate) const GROUP: &str = "g";
pub(crate) const SOURCE: &str = "/test";
pub(crate) const TTL: Duration = Duration::from_secs(1_030);

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackToSavepoint,
    ReleaseSavepoint,
    Prepare(String),
    CommitPrepared(String),
    RollbackPrepared(String),
    /// Only while nobody is in a transaction.
    TimePasses(Duration),
    /// Of what the session waits for.
    Cancel,

    /// Topics and keys, and the number of the first event.
    Append(u128, Vec<(String, String)>),
    Read(Vec<Slot>, BatchLimits),
    Settle(Vec<(Seen, i64)>),
    Hold(MemberId, Vec<ToHold>),
    Groups(Vec<Slot>),
    MoveBack {
        member: MemberId,
        unit: (Slot, i64),
        topic: String,
        destinations: Vec<Destination>,
        lowest: i64,
        limit: i64,
    },
    /// What an operator's transaction does first.
    LockKey(String, String),
    Redrive(Vec<TopicKey>),
    Discard(Vec<TopicKey>, Option<i64>),
    DeadKeys,
    Replay(ReplayBounds, Option<i64>, i64),
    Replayable(ReplayBounds, Option<i64>, i64),
    Clean(Done, Duration, Option<i64>, i64),
    Backlog(i64),
    HeldCounts(i64),
    LowestPending(Vec<Slot>),
    StillWaiting(Vec<(Slot, i64)>),
    SlotsToWatch(MemberId),
    OldestByState,
    UnpublishedOlderThan(Duration),
    Verify,

    EnsureUnits(String, i32),
    Renew(String, MemberId),
    Snapshot(String),
    Claim(String, MemberId, Vec<(i32, i64)>),
    Release(String, MemberId, Vec<i32>),
    Leave(String, MemberId),
    RemoveExpiredMembers(String),

    Progress(Stream),
    NextOffsets(String),
    BeginAt(Stream, i64, Option<Uuid>),
    Identify(Stream, i64, Uuid),
    Reset(Stream, i64, Option<Uuid>),
    Fence {
        stream: Stream,
        offsets: (i64, i64),
        topic_id: Option<Uuid>,
        owner: MemberId,
        epoch: i64,
    },
    RecordUnmet(Stream, Vec<(EventId, i64)>),
    Record(Stream, Vec<(EventId, i64)>),
    FollowCopies(Stream, Vec<(EventId, i64)>),
    Unrecord(Vec<EventId>),
    Advance(Stream, Progress),
    Effect(String, EventId),
    HeldKeys(Stream, Vec<Vec<u8>>),
    HeldBefore(Stream, (i64, i64)),
    HoldLetters(Stream, Vec<DeadLetter>),
    LockInboxKey(String, Vec<u8>),
    UnsettledOfKey(String, Vec<u8>),
    UnsettledWithoutKey(Stream, i64),
    KeyOf(Stream, i64),
    UnsettledKeys(String),
    SettleLetters(String, Vec<(i32, i64)>, Ending),
    Rejected(Stream, i64),
    ListLetters(String),
    CountLetters(String),
    Sweep(String, Duration, Vec<(i32, i64)>),
    SweepLetters(String, Duration, Vec<(i32, i64)>),
}

/// A pending event that was read, and where its version is noted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) slot: Slot,
    pub(crate) id: i64,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) blocked: bool,
    pub(crate) nth: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToHold {
    pub(crate) seen: Seen,
    pub(crate) epoch: i64,
    pub(crate) cause: HoldCause,
    pub(crate) destination: Destination,
}

impl Operation {
    /// Whether it is a transaction of its own, which is not begun inside another.
    pub(crate) fn is_transaction(&self) -> bool {
        matches!(
            self,
            Self::Begin
                | Self::Hold(..)
                | Self::Redrive(_)
                | Self::Discard(..)
                | Self::Clean(..)
                | Self::Verify
                | Self::CommitPrepared(_)
                | Self::RollbackPrepared(_)
        )
    }

    /// Whether it waits for advisory locks alone.
    pub(crate) fn stands_in_line(&self) -> bool {
        matches!(
            self,
            Self::LockKey(..) | Self::LockInboxKey(..) | Self::HeldKeys(..)
        )
    }
}

pub(crate) fn event(number: u128, topic: &str, key: &str) -> NewEvent {
    NewEvent {
        event_id: event_id(number),
        topic: topic.to_owned(),
        key: key.to_owned(),
        event_type: "T".to_owned(),
        schema_version: 1,
        source: number.is_multiple_of(3).then(|| "/own".into()),
        content: match number % 4 {
            0 => None,
            1 => Some(domain::Content {
                content_type: "x".into(),
                body: domain::Body::Bytes(vec![0, 1, 2]),
            }),
            _ => Some(domain::Content::json("{ }".to_owned())),
        },
        headers: (0..number % 3)
            .map(|n| (format!("h{n}"), "a\"\\\u{1}ü\n".to_owned()))
            .collect(),
    }
}

pub(crate) fn event_id(number: u128) -> EventId {
    Uuid::from_u128(0xe0_0000 + number).into()
}

pub(crate) fn member(number: u128) -> MemberId {
    Uuid::from_u128(0xa0_0000 + number).into()
}

pub(crate) fn settled(seen: &[(Seen, i64)], versions: &[RowVersion]) -> Vec<Settled> {
    seen.iter()
        .map(|(seen, offset)| Settled {
            slot: seen.slot,
            id: seen.id,
            version: versions[seen.nth],
            partition: 0,
            offset: *offset,
        })
        .collect()
}

pub(crate) fn holds(to_hold: &[ToHold], versions: &[RowVersion]) -> Vec<Hold> {
    to_hold
        .iter()
        .map(|hold| Hold {
            slot: hold.seen.slot,
            epoch: hold.epoch,
            id: hold.seen.id,
            version: versions[hold.seen.nth],
            topic: hold.seen.topic.clone(),
            key: hold.seen.key.clone(),
            destination: hold.destination,
            cause: hold.cause,
            error: Some("refused".to_owned()),
            attempts: 2,
        })
        .collect()
}

pub(crate) fn letter(offset: i64, key: Option<&[u8]>, cause: Cause) -> DeadLetter {
    DeadLetter {
        offset,
        event_id: Some(event_id(900 + u128::try_from(offset).unwrap_or(0)).as_uuid()),
        key: key.map(<[u8]>::to_vec),
        value: (offset % 3 != 0).then(|| b"value".to_vec()),
        headers: (0..offset % 3)
            .map(|n| (vec![b'h'], (n > 0).then(|| vec![0])))
            .collect(),
        omitted_bytes: None,
        cause,
        reason: "no\0good".to_owned(),
        attempts: 1,
    }
}

/// The slots of the keys that events have here.
pub(crate) fn slots(keys: &[&str]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = keys.iter().map(|key| Database::slot(key)).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}
