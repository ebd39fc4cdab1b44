//! The same operations on a real Postgres.

use diesel_async::SimpleAsyncConnection;
use storage::inbox::{self, dead_letters, retention};
use storage::outbox::{self, MoveFrom, RowVersion};
use storage::{Connection, StorageError, lease};

use crate::answer::Answer;
use crate::on_model::{AMOUNT, LIST, position, sweep};
use crate::operation::{GROUP, Operation, SLOTS, SOURCE, TTL, event, holds, settled};

/// What handlers write in the model, beside the tables of the schema.
pub(crate) const EFFECTS: &str =
    "create table effect (target text primary key, events uuid[] not null)";

async fn sql(c: &mut Connection, sql: &str) -> Result<Answer, StorageError> {
    c.batch_execute(sql).await?;
    Ok(Answer::of(()))
}

#[allow(clippy::too_many_lines)] // one line for each operation
pub(crate) async fn on_postgres(
    c: &mut Connection,
    operation: &Operation,
    versions: &[RowVersion],
) -> Result<Answer, StorageError> {
    use Operation as O;
    Ok(match operation {
        O::Begin => sql(c, "begin").await?,
        O::Commit => sql(c, "commit").await?,
        O::Rollback => sql(c, "rollback").await?,
        O::Savepoint => sql(c, "savepoint s").await?,
        O::RollbackToSavepoint => sql(c, "rollback to savepoint s; release savepoint s").await?,
        O::ReleaseSavepoint => sql(c, "release savepoint s").await?,
        O::Prepare(name) => sql(c, &format!("prepare transaction '{name}'")).await?,
        O::CommitPrepared(name) => {
            sql(c, &format!("commit prepared '{name}'")).await?;
            Answer::of(true)
        }
        O::RollbackPrepared(name) => {
            sql(c, &format!("rollback prepared '{name}'")).await?;
            Answer::of(true)
        }
        O::Cancel => unreachable!("not of the session that waits"),
        O::TimePasses(by) => sql(c, &time_passes(by.as_secs())).await?,
        O::Append(first, events) => {
            let events: Vec<_> = (*first..)
                .zip(events)
                .map(|(n, (topic, key))| event(n, topic, key))
                .collect();
            Answer::of(outbox::append(c, &events).await?)
        }
        O::Read(slots, limits) => {
            Answer::batch(&outbox::read_pending(c, slots, *limits, SOURCE).await?)
        }
        O::Settle(seen) => Answer::of(outbox::settle(c, &mut settled(seen, versions)).await?),
        O::Hold(member, to_hold) => {
            Answer::held(&outbox::hold(c, SLOTS, *member, &holds(to_hold, versions)).await?)
        }
        O::Groups(slots) => Answer::groups(&outbox::unavailable_groups(c, slots).await?),
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
            Answer::of(outbox::move_back(c, SLOTS, *member, *unit, from, *limit).await?)
        }
        O::LockKey(topic, key) => {
            let lock = format!(
                "select pg_advisory_xact_lock(hashtextextended('{topic}' || chr(31) || '{key}', 7))"
            );
            sql(c, &lock).await?
        }
        O::Redrive(keys) => Answer::of(outbox::redrive(c, keys).await?),
        O::Discard(keys, only) => Answer::of(outbox::discard(c, keys, *only).await?),
        O::DeadKeys => Answer::of(outbox::dead_keys(c, None, 100).await?),
        O::Replay(bounds, after, size) => {
            Answer::of(outbox::replay(c, bounds, *after, *size).await?)
        }
        O::Replayable(bounds, after, size) => {
            Answer::of(outbox::replayable(c, bounds, *after, *size).await?)
        }
        O::Clean(done, retention, after, size) => {
            Answer::of(outbox::clean(c, *done, *retention, *after, *size).await?)
        }
        O::Backlog(bound) => Answer::backlog(outbox::backlog(c, *bound).await?),
        O::HeldCounts(bound) => Answer::of(outbox::held_counts(c, *bound).await?),
        O::LowestPending(slots) => Answer::lowest(outbox::lowest_pending(c, slots).await?),
        O::StillWaiting(events) => Answer::set(outbox::still_waiting(c, events).await?),
        O::SlotsToWatch(member) => Answer::of(outbox::slots_to_watch(c, SLOTS, *member).await?),
        O::OldestByState => Answer::ages(&outbox::oldest_by_state(c).await?),
        O::UnpublishedOlderThan(age) => {
            Answer::of(retention::unpublished_older_than(c, *age).await?)
        }
        O::Verify => Answer::of(outbox::verify(c, 1_000).await?),

        O::EnsureUnits(scope, count) => Answer::of(lease::ensure_units(c, scope, *count).await?),
        O::Renew(scope, member) => Answer::claims(&lease::renew(c, scope, *member, TTL).await?),
        O::Snapshot(scope) => Answer::snapshot(&lease::snapshot(c, scope).await?),
        O::Claim(scope, member, seen) => {
            Answer::claims(&lease::claim(c, scope, *member, seen).await?)
        }
        O::Release(scope, member, units) => {
            Answer::of(lease::release(c, scope, *member, units).await?)
        }
        O::Leave(scope, member) => Answer::of(lease::leave(c, scope, *member).await?),
        O::RemoveExpiredMembers(scope) => {
            Answer::of(lease::remove_expired_members(c, scope).await?)
        }

        O::Progress(stream) => Answer::of(inbox::progress(c, stream).await?),
        O::NextOffsets(topic) => Answer::map(inbox::next_offsets(c, GROUP, topic).await?),
        O::BeginAt(stream, next, topic) => {
            Answer::of(inbox::begin_at(c, stream, *next, *topic).await?)
        }
        O::Identify(stream, next, topic) => {
            Answer::of(inbox::identify(c, stream, *next, *topic).await?)
        }
        O::Reset(stream, next, topic) => Answer::of(inbox::reset(c, stream, *next, *topic).await?),
        O::Fence {
            stream,
            offsets,
            topic_id,
            owner,
            epoch,
        } => Answer::of(inbox::fence(c, stream, *offsets, *topic_id, *owner, *epoch).await?),
        O::RecordUnmet(stream, events) => Answer::of(inbox::record_unmet(c, stream, events).await?),
        O::Record(stream, events) => Answer::set(inbox::record(c, stream, events).await?),
        O::FollowCopies(stream, copies) => {
            Answer::of(inbox::follow_copies(c, stream, copies).await?)
        }
        O::Unrecord(events) => Answer::of(inbox::unrecord(c, GROUP, events).await?),
        O::Advance(stream, progress) => Answer::of(inbox::advance(c, stream, *progress).await?),
        O::Effect(target, event) => {
            let upsert = format!(
                "insert into effect as e values ('{target}', array['{event}'::uuid]) \
                 on conflict (target) do update set events = e.events || excluded.events"
            );
            sql(c, &upsert).await?
        }
        O::HeldKeys(stream, keys) => {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            Answer::set(dead_letters::held_keys(c, stream, &keys).await?)
        }
        O::HeldBefore(stream, offsets) => {
            Answer::stored(&dead_letters::held_before(c, stream, *offsets).await?)
        }
        O::HoldLetters(stream, letters) => {
            Answer::of(dead_letters::hold(c, stream, letters).await?)
        }
        O::LockInboxKey(topic, key) => {
            Answer::of(dead_letters::lock_key(c, GROUP, topic, key).await?)
        }
        O::UnsettledOfKey(topic, key) => {
            Answer::stored(&dead_letters::unsettled_of_key(c, GROUP, topic, key, AMOUNT).await?)
        }
        O::UnsettledWithoutKey(stream, offset) => {
            let position = position(stream, *offset);
            let stored = dead_letters::unsettled_without_key(c, GROUP, &position).await?;
            Answer::stored(&stored.into_iter().collect::<Vec<_>>())
        }
        O::KeyOf(stream, offset) => {
            Answer::of(dead_letters::key_of(c, GROUP, &position(stream, *offset)).await?)
        }
        O::UnsettledKeys(topic) => Answer::of(dead_letters::unsettled_keys(c, GROUP, topic).await?),
        O::SettleLetters(topic, places, ending) => {
            Answer::of(dead_letters::settle(c, GROUP, topic, places, *ending).await?)
        }
        O::Rejected(stream, offset) => {
            let position = position(stream, *offset);
            Answer::of(dead_letters::rejected(c, GROUP, &position, "again").await?)
        }
        O::ListLetters(topic) => Answer::listed(dead_letters::list(c, GROUP, topic, LIST).await?),
        O::CountLetters(topic) => Answer::of(dead_letters::counts(c, GROUP, topic).await?),
        O::Sweep(topic, older_than, starts) => {
            Answer::of(retention::sweep(c, &sweep(topic, *older_than, starts)).await?)
        }
        O::SweepLetters(topic, older_than, starts) => {
            let sweep = sweep(topic, *older_than, starts);
            Answer::of(retention::sweep_dead_letters(c, &sweep).await?)
        }
    })
}

/// Nothing is known of the clock but how it compares with stored times: those go back.
fn time_passes(seconds: u64) -> String {
    [
        ("outbox_event", "created_at"),
        ("outbox_published", "processed_at"),
        ("outbox_held", "held_at"),
        ("outbox_held", "discarded_at"),
        ("lease_member", "expires_at"),
        ("inbox", "processed_at"),
        ("inbox", "redelivered_at"),
        ("inbox_offset", "updated_at"),
        ("inbox_dead_letter", "held_at"),
        ("inbox_dead_letter", "settled_at"),
    ]
    .map(|(table, column)| {
        format!("update {table} set {column} = {column} - make_interval(secs => {seconds});")
    })
    .concat()
}
