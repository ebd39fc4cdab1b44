//! Holding events: dead, blocked or unavailable.

use std::collections::BTreeMap;

use storage::lease::MemberId;
use storage::outbox::{HeldEvents, Hold, HoldCause};

use super::Connection;
use super::call::Scope;
use super::error::DatabaseError;
use super::hash;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::HeldRow;
use super::transaction::{Failure, Statement};

impl Connection<'_> {
    /// As `storage::outbox::hold`: one transaction, unless all are unavailable.
    ///
    /// # Errors
    /// Any [`DatabaseError`]. The real function waits half a second for locks and then fails.
    pub fn hold(
        &mut self,
        scope: &str,
        member: MemberId,
        holds: &[Hold],
    ) -> Result<Vec<HeldEvents>, DatabaseError> {
        let mut holds: Vec<&Hold> = holds.iter().collect();
        holds.sort_unstable_by_key(|hold| hold.id);
        let keys: Vec<(&str, &str)> = holds
            .iter()
            .filter(|hold| hold.cause != HoldCause::Unavailable)
            .map(|hold| (hold.topic.as_str(), hold.key.as_str()))
            .collect();
        if keys.is_empty() {
            return self.run(|statement| statement.move_to_held(scope, member, &holds));
        }
        let (blocked, others): (Vec<&Hold>, Vec<&Hold>) = holds
            .into_iter()
            .partition(|hold| hold.cause == HoldCause::Blocked);
        self.call("hold", Scope::Transaction, |call| {
            call.step(|statement| statement.lock_keys(&keys))?;
            let mut held = call.step(|statement| statement.move_to_held(scope, member, &others))?;
            held.extend(
                call.step(|statement| statement.move_blocked_to_held(scope, member, &blocked))?,
            );
            Ok(held)
        })
    }

    /// The first statement of [`Connection::hold`], of redrive and of discard: locks topics and keys
    /// until the transaction ends.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<(), DatabaseError> {
        self.run(|statement| statement.lock_keys(keys))
    }
}

impl Statement<'_> {
    pub(super) fn lock_keys(&mut self, keys: &[(&str, &str)]) -> Result<(), Failure> {
        if self.has(Mutation::NoKeyLocks) {
            return Ok(());
        }
        let keys = keys.iter();
        let mut locks: Vec<i64> = keys
            .map(|(topic, key)| hash::outbox_key(topic, key))
            .collect();
        locks.sort_unstable();
        for lock in locks {
            self.writer.lock(lock, Mode::Exclusive)?;
        }
        Ok(())
    }

    fn move_to_held(
        &mut self,
        scope: &str,
        member: MemberId,
        holds: &[&Hold],
    ) -> Result<Vec<HeldEvents>, Failure> {
        let owned = self.owned_of(scope, member, holds)?;
        let mut held = BTreeMap::new();
        for hold in holds.iter().filter(|hold| owned.contains(&unit(hold))) {
            let row = |bytes| HeldRow {
                error: hold.error.clone(),
                attempts: Some(hold.attempts),
                ..held_row(hold, bytes)
            };
            if self.move_one(hold, row)? {
                let cause = held.entry(hold.cause.as_str());
                cause.or_insert((hold.cause, 0)).1 += 1;
            }
        }
        Ok(held
            .into_values()
            .map(|(cause, events)| HeldEvents { cause, events })
            .collect())
    }

    fn move_blocked_to_held(
        &mut self,
        scope: &str,
        member: MemberId,
        holds: &[&Hold],
    ) -> Result<Vec<HeldEvents>, Failure> {
        let owned = self.owned_of(scope, member, holds)?;
        let mut events = 0;
        for hold in holds.iter().filter(|hold| owned.contains(&unit(hold))) {
            let front = self.first_of_key(hold);
            if front.is_none() && !self.has(Mutation::HoldBlockedWithoutRecheck) {
                continue;
            }
            let row = |bytes| HeldRow {
                cause: HoldCause::Blocked,
                blocked_by: front,
                ..held_row(hold, bytes)
            };
            events += i64::from(self.move_one(hold, row)?);
        }
        let blocked = HeldEvents {
            cause: HoldCause::Blocked,
            events,
        };
        Ok((events > 0).then_some(blocked).into_iter().collect())
    }

    /// The units that the fence lets pass, locked also where it turns out that nothing is pending. A
    /// plan of Postgres may not ask for them then.
    fn owned_of(
        &mut self,
        scope: &str,
        member: MemberId,
        holds: &[&Hold],
    ) -> Result<Vec<(i32, i64)>, Failure> {
        let mut units: Vec<(i32, i64)> = holds.iter().map(|hold| unit(hold)).collect();
        units.sort_unstable();
        units.dedup();
        if self.has(Mutation::HoldWithoutFence) {
            return Ok(units);
        }
        self.fence_units(scope, member, &units)
    }

    /// The lowest id before this one that blocks its key.
    fn first_of_key(&self, hold: &Hold) -> Option<i64> {
        let before = self.tables.held.scan(self.view(), ..hold.id);
        let blocks = |row: &HeldRow| row.blocks() && row.topic == hold.topic && row.key == hold.key;
        before
            .filter(|(_, row)| blocks(row))
            .map(|(id, _)| *id)
            .next()
    }

    fn move_one(&mut self, hold: &Hold, row: impl Fn(i32) -> HeldRow) -> Result<bool, Failure> {
        let key = (hold.slot.number(), hold.id);
        let bytes = self
            .tables
            .pending
            .get(self.view(), &key)
            .map(|row| row.bytes);
        if !self.take_pending(&key, hold.version, false)? {
            return Ok(false);
        }
        let row = row(bytes.unwrap_or(0));
        let latest = |_| Some(row.clone());
        let table = &mut self.tables.held;
        table.upsert(&mut self.writer, &hold.id, &row, latest)
    }
}

fn unit(hold: &Hold) -> (i32, i64) {
    (hold.slot.number().into(), hold.epoch)
}

fn held_row(hold: &Hold, bytes: i32) -> HeldRow {
    HeldRow {
        slot: hold.slot.number(),
        topic: hold.topic.clone(),
        key: hold.key.clone(),
        cause: hold.cause,
        destination: hold.destination,
        bytes,
        error: None,
        attempts: None,
        blocked_by: None,
        discarded_at: None,
    }
}
