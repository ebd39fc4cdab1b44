//! Faults that a model can have on purpose.

/// A deliberate fault: the statement lacks what it names. For showing that a checker notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// Events are held whoever owns their slot, under whatever epoch.
    HoldWithoutFence,
    /// Events go back to pending whoever owns their slot, under whatever epoch.
    MoveBackWithoutFence,
    /// The highest unavailable events of a group go back first.
    MoveBackHighestFirst,
    /// A mark counts for any version of the pending row, so a late one undoes a replay.
    SettleAnyVersion,
    /// A read does not tell which groups of unavailable events there are.
    ReadIgnoresGroups,
    /// A read does not tell which events a dead letter blocks.
    ReadMissesBlockedBy,
    /// A unit is claimed at whatever epoch it is, not only at the one it was seen at.
    ClaimAnyEpoch,
    /// A claim leaves the epoch as it is.
    ClaimKeepsEpoch,
    /// A claim takes units of living members too.
    ClaimFromTheLiving,
    /// A heartbeat that comes after the member had expired takes back the units it owned last, under
    /// their old epochs.
    RenewRevivesExpired,
    /// Copies of an event that the inbox has count as new: `on conflict do nothing` is dropped.
    InboxAppliesCopies,
    /// A batch is opened under whatever epoch.
    FenceWithoutEpoch,
    /// A batch is opened wherever the group stands.
    FenceWithoutOffset,
    /// A batch is opened whatever the topic's id is.
    FenceWithoutTopicId,
    /// The rows of the offset and the lease are compared and not locked.
    FenceWithoutLocks,
    /// The age of an event alone decides whether retention deletes it, not that it is published.
    RetentionDeletesUnpublished,
    /// Inbox rows go by age alone, also while Kafka can deliver the record again.
    SweepIgnoresLogStart,
    /// Events are held as blocked without a second look at what blocks them.
    HoldBlockedWithoutRecheck,
    /// Decisions on a key take no lock on it.
    NoKeyLocks,
    /// A redrive moves only the last held event of a key.
    RedriveLastFirst,
    /// A discard leaves the events held that only the dead letter blocked.
    DiscardReturnsNothing,
    /// The group moves to the next offset, and the events of the batch are not recorded.
    RecordForgets,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::HoldWithoutFence,
        Self::MoveBackWithoutFence,
        Self::MoveBackHighestFirst,
        Self::SettleAnyVersion,
        Self::ReadIgnoresGroups,
        Self::ReadMissesBlockedBy,
        Self::ClaimAnyEpoch,
        Self::ClaimKeepsEpoch,
        Self::ClaimFromTheLiving,
        Self::RenewRevivesExpired,
        Self::InboxAppliesCopies,
        Self::FenceWithoutEpoch,
        Self::FenceWithoutOffset,
        Self::FenceWithoutTopicId,
        Self::FenceWithoutLocks,
        Self::RetentionDeletesUnpublished,
        Self::SweepIgnoresLogStart,
        Self::HoldBlockedWithoutRecheck,
        Self::NoKeyLocks,
        Self::RedriveLastFirst,
        Self::DiscardReturnsNothing,
        Self::RecordForgets,
    ];
}
