//! `lease` and `lease_member`.

use std::time::Duration;

use storage::lease::{Claim, Member, MemberId, Snapshot, Unit};

use super::Connection;
use super::call::Scope;
use super::error::DatabaseError;
use super::locks::Mode;
use super::mutation::Mutation;
use super::rows::{LeaseKey, LeaseRow, MemberRow};
use super::transaction::{Failure, Statement};

/// After this long a dead member's row may go.
const REMOVED_AFTER: Duration = Duration::from_hours(1);

impl Connection<'_> {
    /// As `storage::lease::ensure_units`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn ensure_units(&mut self, scope: &str, count: i32) -> Result<(), DatabaseError> {
        self.run(|statement| {
            for unit in 0..count {
                let (key, row) = ((scope.to_owned(), unit), LeaseRow::default());
                let leases = &mut statement.tables.leases;
                leases.insert(&mut statement.writer, key, row)?;
            }
            Ok(())
        })
    }

    /// As `storage::lease::renew`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn renew(
        &mut self,
        scope: &str,
        me: MemberId,
        ttl: Duration,
    ) -> Result<Vec<Claim>, DatabaseError> {
        self.run(|statement| statement.renew(scope, me, ttl))
    }

    /// As `storage::lease::snapshot`.
    ///
    /// # Errors
    /// [`DatabaseError::Aborted`].
    pub fn snapshot(&mut self, scope: &str) -> Result<Snapshot, DatabaseError> {
        self.call("snapshot", Scope::Statements, |call| {
            let units = call.step(|statement| Ok(statement.units(scope)))?;
            let members = call.step(|statement| Ok(statement.living(scope)))?;
            Ok(Snapshot { members, units })
        })
    }

    /// As `storage::lease::claim`.
    ///
    /// # Errors
    /// Any [`DatabaseError`] but [`DatabaseError::Blocked`]: what is locked is left to others.
    pub fn claim(
        &mut self,
        scope: &str,
        me: MemberId,
        seen: &[(i32, i64)],
    ) -> Result<Vec<Claim>, DatabaseError> {
        self.run(|statement| statement.claim(scope, me, seen))
    }

    /// As `storage::lease::release`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn release(
        &mut self,
        scope: &str,
        me: MemberId,
        units: &[i32],
    ) -> Result<usize, DatabaseError> {
        self.run(|statement| statement.disown(scope, me, |unit| units.contains(&unit)))
    }

    /// As `storage::lease::leave`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn leave(&mut self, scope: &str, me: MemberId) -> Result<(), DatabaseError> {
        self.run(|statement| {
            statement.disown(scope, me, |_| true)?;
            statement.remove_member(&(scope.to_owned(), me), |_| true)
        })
    }

    /// As `storage::lease::remove_expired_members`.
    ///
    /// # Errors
    /// Any [`DatabaseError`].
    pub fn remove_expired_members(&mut self, scope: &str) -> Result<(), DatabaseError> {
        self.run(|statement| {
            let now = statement.clock;
            let expired = |row: &MemberRow| row.expires_at + REMOVED_AFTER < now;
            for (member, row) in statement.members(scope) {
                if expired(&row) {
                    statement.remove_member(&(scope.to_owned(), member), expired)?;
                }
            }
            Ok(())
        })
    }
}

impl Statement<'_> {
    fn units(&self, scope: &str) -> Vec<Unit> {
        self.leases(scope)
            .map(|(number, row)| Unit {
                number,
                epoch: row.epoch,
                owner: row.owner,
            })
            .collect()
    }

    fn living(&self, scope: &str) -> Vec<Member> {
        let members = self.members(scope).into_iter();
        let living = members.filter(|(_, row)| row.is_alive(self.clock));
        living
            .map(|(id, row)| Member {
                id,
                expires_in: row.expires_at.saturating_sub(self.clock),
            })
            .collect()
    }

    /// By unit.
    pub(super) fn leases(&self, scope: &str) -> impl Iterator<Item = (i32, LeaseRow)> {
        let range = (scope.to_owned(), i32::MIN)..=(scope.to_owned(), i32::MAX);
        let rows = self.tables.leases.scan(self.view(), range);
        rows.map(|(key, row)| (key.1, *row))
    }

    fn members(&self, scope: &str) -> Vec<(MemberId, MemberRow)> {
        let rows = self.tables.members.scan(self.view(), ..);
        let of_scope = rows.filter(|((of, _), _)| of == scope);
        of_scope.map(|((_, id), row)| (*id, *row)).collect()
    }

    /// Whether a unit has an owner who lives.
    pub(super) fn is_owned(&self, scope: &str, row: &LeaseRow) -> bool {
        row.owner.is_some_and(|owner| {
            let members = &self.tables.members;
            let member = members.get(self.view(), &(scope.to_owned(), owner));
            member.is_some_and(|member| member.is_alive(self.clock))
        })
    }

    fn renew(&mut self, scope: &str, me: MemberId, ttl: Duration) -> Result<Vec<Claim>, Failure> {
        let key = (scope.to_owned(), me);
        let row = MemberRow {
            ttl,
            expires_at: self.now + ttl,
        };
        let members = &mut self.tables.members;
        let seen = members.get(self.writer.view, &key).copied();
        members.upsert(&mut self.writer, &key, &row, |_| Some(row))?;
        let owned = self.leases(scope);
        let mine = owned.filter(|(_, row)| row.owner == Some(me));
        let mut claims: Vec<Claim> = mine
            .map(|(unit, row)| Claim {
                unit,
                epoch: row.epoch,
            })
            .collect();
        if self.has(Mutation::RenewRevivesExpired) && seen.is_some_and(|m| !m.is_alive(self.clock))
        {
            claims.extend(self.revive(scope, me)?);
        }
        Ok(claims)
    }

    /// [`Mutation::RenewRevivesExpired`].
    fn revive(&mut self, scope: &str, me: MemberId) -> Result<Vec<Claim>, Failure> {
        let mut revived = Vec::new();
        for (unit, row) in self.leases(scope).collect::<Vec<_>>() {
            if let Some((_, epoch)) = row.previous.filter(|(owner, _)| *owner == me) {
                let (key, leases) = ((scope.to_owned(), unit), &mut self.tables.leases);
                leases.lock(&mut self.writer, &key, Mode::Exclusive)?;
                let row = LeaseRow {
                    owner: Some(me),
                    epoch,
                    previous: None,
                };
                leases.update(&mut self.writer, &key, row)?;
                revived.push(Claim { unit, epoch });
            }
        }
        Ok(revived)
    }

    fn claim(
        &mut self,
        scope: &str,
        me: MemberId,
        seen: &[(i32, i64)],
    ) -> Result<Vec<Claim>, Failure> {
        let mut claimed = Vec::new();
        let mut units: Vec<(i32, i64)> = seen.to_vec();
        units.sort_unstable();
        for (unit, epoch) in units {
            let key: LeaseKey = (scope.to_owned(), unit);
            let free = |statement: &Self, row: &LeaseRow| {
                (row.epoch == epoch || statement.has(Mutation::ClaimAnyEpoch))
                    && (row.owner == Some(me)
                        || statement.has(Mutation::ClaimFromTheLiving)
                        || !statement.is_owned(scope, row))
            };
            let row = self.tables.leases.get(self.view(), &key).copied();
            if !row.is_some_and(|row| free(self, &row)) {
                continue;
            }
            // What changed since the snapshot is looked at again.
            let leases = &self.tables.leases;
            let Some(row) = leases.try_lock(&mut self.writer, &key)? else {
                continue;
            };
            if !free(self, &row) {
                continue;
            }
            let raise = i64::from(!self.has(Mutation::ClaimKeepsEpoch));
            let claimed_row = LeaseRow {
                owner: Some(me),
                epoch: row.epoch + raise,
                previous: row.owner.map(|owner| (owner, row.epoch)).or(row.previous),
            };
            let leases = &mut self.tables.leases;
            leases.update(&mut self.writer, &key, claimed_row)?;
            claimed.push(Claim {
                unit,
                epoch: claimed_row.epoch,
            });
        }
        Ok(claimed)
    }

    fn disown(
        &mut self,
        scope: &str,
        me: MemberId,
        which: impl Fn(i32) -> bool,
    ) -> Result<usize, Failure> {
        let mine = |row: &LeaseRow| row.owner == Some(me);
        let units: Vec<i32> = self
            .leases(scope)
            .filter(|(unit, row)| mine(row) && which(*unit))
            .map(|(unit, _)| unit)
            .collect();
        let mut released = 0;
        for unit in units {
            let key = (scope.to_owned(), unit);
            let leases = &mut self.tables.leases;
            let row = leases.lock(&mut self.writer, &key, Mode::Exclusive)?;
            if let Some(row) = row.filter(mine) {
                let previous = row.owner.map(|owner| (owner, row.epoch));
                let row = LeaseRow {
                    owner: None,
                    previous,
                    ..row
                };
                leases.update(&mut self.writer, &key, row)?;
                released += 1;
            }
        }
        Ok(released)
    }

    fn remove_member(
        &mut self,
        key: &(String, MemberId),
        which: impl Fn(&MemberRow) -> bool,
    ) -> Result<(), Failure> {
        let members = &mut self.tables.members;
        let row = members.lock(&mut self.writer, key, Mode::Exclusive)?;
        if row.is_some_and(|row| which(&row)) {
            members.delete(&mut self.writer, key)?;
        }
        Ok(())
    }

    /// The fence of the outbox: locks the rows of units that are owned under these epochs against a new
    /// owner, and returns them.
    pub(super) fn fence_units(
        &mut self,
        scope: &str,
        me: MemberId,
        units: &[(i32, i64)],
    ) -> Result<Vec<(i32, i64)>, Failure> {
        let mut owned = Vec::new();
        for (unit, epoch) in units {
            let key = (scope.to_owned(), *unit);
            let mine = |row: &LeaseRow| row.owner == Some(me) && row.epoch == *epoch;
            let leases = &self.tables.leases;
            if !leases.get(self.writer.view, &key).is_some_and(mine) {
                continue;
            }
            let row = leases.lock(&mut self.writer, &key, Mode::Shared)?;
            if row.as_ref().is_some_and(mine) {
                owned.push((*unit, *epoch));
            }
        }
        Ok(owned)
    }
}
