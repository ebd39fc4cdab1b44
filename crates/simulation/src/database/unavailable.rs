//! Groups of unavailable events, and their way back to pending.

use domain::Slot;
use storage::lease::MemberId;
use storage::outbox::{HoldCause, MoveFrom, UnavailableGroup};

use super::Connection;
use super::error::DatabaseError;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::HeldRow;
use super::transaction::{Failure, Statement};

impl Connection<'_> {
    /// As `storage::outbox::unavailable_groups`; texts are compared by their bytes.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn unavailable_groups(
        &mut self,
        slots: &[Slot],
    ) -> Result<Vec<UnavailableGroup>, DatabaseError> {
        let wanted = |slot| slots.iter().any(|wanted| wanted.number() == slot);
        self.run(|statement| Ok(statement.groups(wanted)))
    }

    /// As `storage::outbox::move_back`; no destination twice.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn move_back(
        &mut self,
        scope: &str,
        member: MemberId,
        (slot, epoch): (Slot, i64),
        from: MoveFrom<'_>,
        limit: i64,
    ) -> Result<i64, DatabaseError> {
        let unit = (i32::from(slot.number()), epoch);
        self.run(|statement| {
            let owned = if statement.has(Mutation::MoveBackWithoutFence) {
                true
            } else {
                !statement.fence_units(scope, member, &[unit])?.is_empty()
            };
            if !owned {
                return Ok(0);
            }
            statement.move_back(slot.number(), from, limit)
        })
    }
}

impl Statement<'_> {
    fn move_back(&mut self, slot: i16, from: MoveFrom<'_>, limit: i64) -> Result<i64, Failure> {
        let wanted = |row: &HeldRow| {
            row.slot == slot
                && row.cause == HoldCause::Unavailable
                && row.topic == from.topic
                && from.destinations.contains(&row.destination)
        };
        let rows = self.tables.held.scan(self.view(), from.lowest..);
        let mut ids: Vec<i64> = rows
            .filter(|(_, row)| wanted(row))
            .map(|(id, _)| *id)
            .collect();
        if self.has(Mutation::MoveBackHighestFirst) {
            ids.reverse();
        }
        ids.truncate(usize::try_from(limit).unwrap_or(0));
        let mut moved = 0;
        for id in ids {
            moved += i64::from(self.return_held(id, wanted)?.is_some());
        }
        Ok(moved)
    }

    /// Moves a held event back to pending, if it is still one of those wanted; returns it.
    pub(super) fn return_held(
        &mut self,
        id: i64,
        wanted: impl Fn(&HeldRow) -> bool,
    ) -> Result<Option<HeldRow>, Failure> {
        let held = &mut self.tables.held;
        let row = held.lock(&mut self.writer, &id, Mode::Exclusive)?;
        let Some(row) = row.filter(wanted) else {
            return Ok(None);
        };
        held.delete(&mut self.writer, &id)?;
        self.enqueue(row.slot, id, row.bytes)?;
        Ok(Some(row))
    }
}
