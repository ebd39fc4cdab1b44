//! Operations on the model.

use std::time::Duration;

use domain::Position;
use simulation::database::{Connection, Database, DatabaseError};
use storage::inbox::Stream;
use storage::inbox::dead_letters::{Amount, Filter};
use storage::inbox::retention::Sweep;
use storage::outbox::{MoveFrom, RowVersion};

use crate::answer::Answer;
use crate::operation::{GROUP, Operation, SLOTS, SOURCE, TTL, event, holds, settled};

pub(crate) const AMOUNT: Amount = Amount {
    records: 3,
    bytes: 8,
};
pub(crate) const LIST: Filter = Filter {
    settled: true,
    limit: 5,
};

pub(crate) fn position(stream: &Stream, offset: i64) -> Position {
    Position {
        topic: stream.topic.clone(),
        partition: stream.partition,
        offset,
    }
}

pub(crate) fn sweep<'a>(
    topic: &'a str,
    older_than: Duration,
    log_starts: &'a [(i32, i64)],
) -> Sweep<'a> {
    Sweep {
        group: GROUP,
        topic,
        after: None,
        limit: 100,
        older_than,
        log_starts,
    }
}

pub(crate) fn on_prepared(database: &mut Database, operation: &Operation) -> Answer {
    Answer::of(match operation {
        Operation::CommitPrepared(name) => database.commit_prepared(name),
        Operation::RollbackPrepared(name) => database.rollback_prepared(name),
        _ => unreachable!("not of a prepared transaction"),
    })
}

#[allow(clippy::too_many_lines)] // one line for each operation
pub(crate) fn on_model(
    c: &mut Connection<'_>,
    operation: &Operation,
    versions: &[RowVersion],
) -> Result<Answer, DatabaseError> {
    use Operation as O;
    Ok(match operation {
        O::Begin => Answer::of(c.begin()),
        O::Commit => Answer::of(c.commit()?),
        O::Rollback => Answer::of(c.rollback()),
        O::Savepoint => Answer::of(c.savepoint()?),
        O::RollbackToSavepoint => Answer::of(c.rollback_to_savepoint()),
        O::ReleaseSavepoint => Answer::of(c.release_savepoint()?),
        O::Prepare(name) => Answer::of(c.prepare(name)?),
        O::CommitPrepared(_) | O::RollbackPrepared(_) | O::TimePasses(_) | O::Cancel => {
            unreachable!("not of a session")
        }
        O::Append(first, events) => {
            let events: Vec<_> = (*first..)
                .zip(events)
                .map(|(n, (topic, key))| event(n, topic, key))
                .collect();
            c.append(&events)?;
            Answer::of(())
        }
        O::Read(slots, limits) => Answer::batch(&c.read_pending(slots, *limits, SOURCE)?),
        O::Settle(seen) => Answer::of(c.settle(&mut settled(seen, versions))?),
        O::Hold(member, to_hold) => {
            Answer::held(&c.hold(SLOTS, *member, &holds(to_hold, versions))?)
        }
        O::Groups(slots) => Answer::groups(&c.unavailable_groups(slots)?),
        O::MoveBack {
            member,
            unit,
            topic,
            destinations,
            lowest,
            limit,
        } => {
            let from = MoveFrom {
                topic,
                destinations,
                lowest: *lowest,
            };
            Answer::of(c.move_back(SLOTS, *member, *unit, from, *limit)?)
        }
        O::LockKey(topic, key) => Answer::of(c.lock_keys(&[(topic, key)])?),
        O::Redrive(keys) => Answer::of(c.redrive(keys)?),
        O::Discard(keys, only) => Answer::of(c.discard(keys, *only)?),
        O::DeadKeys => Answer::of(c.dead_keys(None, 100)?),
        O::Replay(bounds, after, size) => Answer::of(c.replay(bounds, *after, *size)?),
        O::Replayable(bounds, after, size) => Answer::of(c.replayable(bounds, *after, *size)?),
        O::Clean(done, retention, after, size) => {
            Answer::of(c.clean(*done, *retention, *after, *size)?)
        }
        O::Backlog(bound) => Answer::backlog(c.backlog(*bound)?),
        O::HeldCounts(bound) => Answer::of(c.held_counts(*bound)?),
        O::LowestPending(slots) => Answer::lowest(c.lowest_pending(slots)?),
        O::StillWaiting(events) => Answer::set(c.still_waiting(events)?),
        O::SlotsToWatch(member) => Answer::of(c.slots_to_watch(SLOTS, *member)?),
        O::OldestByState => Answer::ages(&c.oldest_by_state()?),
        O::UnpublishedOlderThan(age) => Answer::of(c.unpublished_older_than(*age)?),
        O::Verify => Answer::of(c.verify()?),

        O::EnsureUnits(scope, count) => Answer::of(c.ensure_units(scope, *count)?),
        O::Renew(scope, member) => Answer::claims(&c.renew(scope, *member, TTL)?),
        O::Snapshot(scope) => Answer::snapshot(&c.snapshot(scope)?),
        O::Claim(scope, member, seen) => Answer::claims(&c.claim(scope, *member, seen)?),
        O::Release(scope, member, units) => Answer::of(c.release(scope, *member, units)?),
        O::Leave(scope, member) => Answer::of(c.leave(scope, *member)?),
        O::RemoveExpiredMembers(scope) => Answer::of(c.remove_expired_members(scope)?),

        O::Progress(stream) => Answer::of(c.progress(stream)?),
        O::NextOffsets(topic) => Answer::map(c.next_offsets(GROUP, topic)?),
        O::BeginAt(stream, next, topic) => Answer::of(c.begin_at(stream, *next, *topic)?),
        O::Identify(stream, next, topic) => Answer::of(c.identify(stream, *next, *topic)?),
        O::Reset(stream, next, topic) => Answer::of(c.reset(stream, *next, *topic)?),
        O::Fence {
            stream,
            offsets,
            topic_id,
            owner,
            epoch,
        } => Answer::of(c.fence(stream, *offsets, *topic_id, *owner, *epoch)?),
        O::RecordUnmet(stream, events) => Answer::of(c.record_unmet(stream, events)?),
        O::Record(stream, events) => Answer::set(c.record(stream, events)?),
        O::FollowCopies(stream, copies) => Answer::of(c.follow_copies(stream, copies)?),
        O::Unrecord(events) => Answer::of(c.unrecord(GROUP, events)?),
        O::Advance(stream, progress) => Answer::of(c.advance(stream, *progress)?),
        O::Effect(target, event) => Answer::of(c.apply_effect(target, *event)?),
        O::HeldKeys(stream, keys) => {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            Answer::set(c.held_keys(stream, &keys)?)
        }
        O::HeldBefore(stream, offsets) => Answer::stored(&c.held_before(stream, *offsets)?),
        O::HoldLetters(stream, letters) => Answer::of(c.hold_dead_letters(stream, letters)?),
        O::LockInboxKey(topic, key) => Answer::of(c.lock_key(GROUP, topic, key)?),
        O::UnsettledOfKey(topic, key) => {
            Answer::stored(&c.unsettled_of_key(GROUP, topic, key, AMOUNT)?)
        }
        O::UnsettledWithoutKey(stream, offset) => {
            let stored = c.unsettled_without_key(GROUP, &position(stream, *offset))?;
            Answer::stored(&stored.into_iter().collect::<Vec<_>>())
        }
        O::KeyOf(stream, offset) => Answer::of(c.key_of(GROUP, &position(stream, *offset))?),
        O::UnsettledKeys(topic) => Answer::of(c.unsettled_keys(GROUP, topic)?),
        O::SettleLetters(topic, places, ending) => {
            Answer::of(c.settle_dead_letters(GROUP, topic, places, *ending)?)
        }
        O::Rejected(stream, offset) => {
            Answer::of(c.rejected(GROUP, &position(stream, *offset), "again")?)
        }
        O::ListLetters(topic) => Answer::listed(c.list(GROUP, topic, LIST)?),
        O::CountLetters(topic) => Answer::of(c.counts(GROUP, topic)?),
        O::Sweep(topic, older_than, starts) => {
            Answer::of(c.sweep(&sweep(topic, *older_than, starts))?)
        }
        O::SweepLetters(topic, older_than, starts) => {
            Answer::of(c.sweep_dead_letters(&sweep(topic, *older_than, starts))?)
        }
    })
}
