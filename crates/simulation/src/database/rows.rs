//! The rows of the tables, as far as statements ask for them.

use std::time::Duration;

use domain::{EventId, NewEvent};
use storage::inbox::Progress;
use storage::inbox::dead_letters::{DeadLetter, Ending};
use storage::lease::MemberId;
use storage::outbox::{Destination, HoldCause, RowVersion};
use uuid::Uuid;

use super::table::{Journal, Table};
use super::transaction::TransactionId;

/// A row of `outbox_event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    pub event: NewEvent,
    /// When the writing transaction began.
    pub created_at: Duration,
}

/// A row of `outbox_pending`, by slot and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRow {
    pub bytes: i32,
    pub version: RowVersion,
}

/// A row of `outbox_published`, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedRow {
    pub partition: i32,
    pub offset: i64,
    pub processed_at: Duration,
}

/// A row of `outbox_held`, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRow {
    pub slot: i16,
    pub topic: String,
    pub key: String,
    pub cause: HoldCause,
    pub destination: Destination,
    pub bytes: i32,
    pub error: Option<String>,
    pub attempts: Option<i32>,
    pub blocked_by: Option<i64>,
    pub discarded_at: Option<Duration>,
}

impl HeldRow {
    /// Whether it holds later events of its key back.
    pub fn blocks(&self) -> bool {
        self.cause != HoldCause::Unavailable && self.discarded_at.is_none()
    }
}

/// A row of `lease`, by scope and unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseRow {
    pub owner: Option<MemberId>,
    pub epoch: i64,
    /// Who owned it before, and under which epoch. The table has no such column: for mutations.
    pub(super) previous: Option<(MemberId, i64)>,
}

/// A row of `lease_member`, by scope and member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRow {
    pub ttl: Duration,
    pub expires_at: Duration,
}

impl MemberRow {
    /// Whether the member is alive.
    pub fn is_alive(&self, now: Duration) -> bool {
        self.expires_at > now && self.expires_at <= now + self.ttl
    }
}

/// A row of `inbox`, by group and event id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxRow {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub processed_at: Duration,
    pub redelivered_at: Option<Duration>,
}

/// A row of `inbox_dead_letter`, by group, topic, partition and offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    pub letter: DeadLetter,
    pub held_at: Duration,
    pub settled: Option<(Duration, Ending)>,
}

impl DeadLetterRow {
    /// Whether it holds later records of its key back.
    pub fn holds_key(&self) -> bool {
        self.settled.is_none() && self.letter.key.is_some()
    }
}

/// Key of `lease`: scope and unit.
pub type LeaseKey = (String, i32);
/// Key of `inbox_offset`: group, topic and partition.
pub type OffsetKey = (String, String, i32);
/// Key of `inbox_dead_letter`: group, topic, partition and offset.
pub type DeadLetterKey = (String, String, i32, i64);

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) events: Table<i64, EventRow>,
    pub(super) pending: Table<(i16, i64), PendingRow>,
    pub(super) published: Table<i64, PublishedRow>,
    pub(super) held: Table<i64, HeldRow>,
    pub(super) leases: Table<LeaseKey, LeaseRow>,
    pub(super) members: Table<(String, MemberId), MemberRow>,
    pub(super) inbox: Table<(String, Uuid), InboxRow>,
    pub(super) offsets: Table<OffsetKey, Progress>,
    pub(super) dead_letters: Table<DeadLetterKey, DeadLetterRow>,
    pub(super) effects: Table<String, Vec<EventId>>,
}

impl Tables {
    fn all(&mut self) -> [&mut dyn Journal; 10] {
        [
            &mut self.events,
            &mut self.pending,
            &mut self.published,
            &mut self.held,
            &mut self.leases,
            &mut self.members,
            &mut self.inbox,
            &mut self.offsets,
            &mut self.dead_letters,
            &mut self.effects,
        ]
    }

    pub(super) fn commit(&mut self, transaction: TransactionId, commit: u64, horizon: u64) {
        for table in self.all() {
            table.commit(transaction, commit, horizon);
        }
    }

    pub(super) fn undo(&mut self, transaction: TransactionId, step: u64) {
        for table in self.all() {
            table.undo(transaction, step);
        }
    }
}
