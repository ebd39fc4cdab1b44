//! The tables of leases, over the network.

use std::time::Duration;

use async_trait::async_trait;
use storage::StorageError;
use storage::lease::{Claim, LeaseTable, MemberId, Snapshot};

use super::statement::statement;
use crate::database::{Connection, DatabaseError};
use crate::world::{Fault, Host};

pub(super) struct SimLeases {
    pub(super) host: Host,
    pub(super) scope: String,
    pub(super) ttl: Duration,
}

impl SimLeases {
    async fn call<T: Send + 'static>(
        &self,
        mut operation: impl FnMut(&mut Connection<'_>, &str) -> Result<T, DatabaseError>
        + Send
        + 'static,
    ) -> Result<T, StorageError> {
        let limits = (self.ttl / 3, self.ttl * 2 / 3);
        let scope = self.scope.clone();
        let outcome = statement(&self.host, limits, move |conn| operation(conn, &scope)).await;
        let wrong = {
            let world = &mut *self.host.sim.world();
            world.oracle.check_leases(&world.database)
        };
        if let Some(wrong) = wrong {
            self.host.sim.violated(wrong);
        }
        outcome
    }
}

#[async_trait]
impl LeaseTable for SimLeases {
    async fn connect(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn ensure_units(&mut self, count: i32) -> Result<(), StorageError> {
        self.call(move |conn, scope| conn.ensure_units(scope, count))
            .await
    }

    async fn renew(&mut self, me: MemberId, ttl: Duration) -> Result<Vec<Claim>, StorageError> {
        self.call(move |conn, scope| conn.renew(scope, me, ttl))
            .await
    }

    async fn snapshot(&mut self) -> Result<Snapshot, StorageError> {
        self.call(|conn, scope| conn.snapshot(scope)).await
    }

    async fn claim(
        &mut self,
        me: MemberId,
        seen: &[(i32, i64)],
    ) -> Result<Vec<Claim>, StorageError> {
        let seen = seen.to_vec();
        let sim = self.host.sim.clone();
        // As the statement sees them: whoever comes back to life meanwhile may lose its units.
        let mut taboo: Option<Vec<i32>> = None;
        let claimed = self.call(move |conn, scope| {
            let now = sim.now();
            let of_the_living = |unit: &&(i32, i64)| {
                let database = conn.database();
                let owner = database.lease(scope, unit.0).and_then(|row| row.owner);
                let owner = owner.filter(|owner| *owner != me);
                let member = owner.and_then(|owner| database.member(scope, owner));
                member.is_some_and(|member| member.is_alive(now))
            };
            let taboo = taboo.get_or_insert_with(|| {
                let units = seen.iter().filter(of_the_living);
                units.map(|(unit, _)| *unit).collect()
            });
            let claimed = conn.claim(scope, me, &seen)?;
            let taken = claimed.iter().any(|claim| taboo.contains(&claim.unit));
            Ok((
                claimed,
                taken.then(|| format!("P6: {taboo:?} of {scope} had living owners")),
            ))
        });
        let (claimed, wrong) = claimed.await?;
        if let Some(wrong) = wrong {
            self.host.sim.violated(wrong);
        }
        Ok(claimed)
    }

    async fn release(&mut self, me: MemberId, units: &[i32]) -> Result<(), StorageError> {
        let units = units.to_vec();
        self.call(move |conn, scope| conn.release(scope, me, &units))
            .await?;
        Ok(())
    }

    async fn leave(&mut self, me: MemberId) -> Result<(), StorageError> {
        self.call(move |conn, scope| conn.leave(scope, me)).await
    }

    async fn remove_expired_members(&mut self) -> Result<(), StorageError> {
        self.call(|conn, scope| conn.remove_expired_members(scope))
            .await
    }

    async fn notify_others(&mut self) -> Result<(), StorageError> {
        let sim = &self.host.sim;
        let fails = sim.world().trouble.is(&Fault::NotifyFails, sim.now());
        self.call(|_, _| Ok(())).await?;
        if fails {
            return Err(StorageError::closed());
        }
        sim.handed_over().notify_waiters();
        Ok(())
    }

    async fn heard(&mut self) {
        self.host.sim.handed_over().notified().await;
        self.host.awake().await;
    }
}
