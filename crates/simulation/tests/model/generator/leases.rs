//! Operations on leases.

use rand::RngExt;

use super::{Generator, leases, scopes, units};
use crate::operation::Operation as O;
use crate::run::ModelRun;

impl Generator {
    pub(super) fn of_leases(&mut self, run: &ModelRun) -> O {
        let scopes = scopes();
        let scope = self.pick(&scopes).clone();
        let rows = leases(run, &scope);
        let units = units(&scope);
        match self.random.random_range(0..100) {
            0..30 => O::Renew(scope, self.member()),
            30..40 => O::Snapshot(scope),
            40..75 => {
                let rows: Vec<_> = rows
                    .into_iter()
                    .filter(|(u, _)| units.contains(u))
                    .collect();
                let mut seen = Vec::new();
                for (unit, row) in rows {
                    if self.chance(70) {
                        seen.push((unit, self.near(row.epoch)));
                    }
                }
                O::Claim(scope, self.member(), seen)
            }
            75..88 => {
                let unit = *self.pick(&units);
                let owner = rows.iter().find(|(of, _)| *of == unit);
                let owner = owner.and_then(|(_, row)| row.owner);
                O::Release(scope, self.most_often(owner), vec![unit])
            }
            88..95 => O::Leave(scope, self.member()),
            _ => O::RemoveExpiredMembers(scope),
        }
    }
}
