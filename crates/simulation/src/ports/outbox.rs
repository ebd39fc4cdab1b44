//! The relay's outbox, over the network.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use domain::Slot;
use outbox_relay::ports::{
    CALL_DEADLINE, LOOK_DEADLINE, Outbox, OutboxConnection, READ_GRACE, Role,
};
use storage::StorageError;
use storage::lease::{LeaseTable, MemberId};
use storage::outbox::{
    Backlog, Batch, BatchLimits, Cleaned, Done, HeldCounts, HeldEvents, Hold, HorizonHolder,
    LowestPending, MoveFrom, Orphan, Settled, UnavailableGroup,
};

use super::leases::SimLeases;
use super::statement::{Session, answered, statement};
use crate::database::{Connection, DatabaseError};
use crate::world::{Fault, Host, Server};

/// The scope of the relays' leases.
pub const SCOPE: &str = "outbox-relay";

/// The outbox, as one process reaches it.
pub struct SimOutbox {
    pub host: Host,
    pub lease_ttl: Duration,
}

impl Outbox for SimOutbox {
    fn connection(&self, role: Role) -> Box<dyn OutboxConnection> {
        let statement_timeout = match role {
            Role::Pipeline => self.statement_timeout(),
            Role::Maintenance => Duration::from_secs(4),
        };
        Box::new(SimConnection {
            host: self.host.clone(),
            statement_timeout,
            read_limit: None,
        })
    }

    fn leases(&self) -> Box<dyn LeaseTable> {
        Box::new(SimLeases {
            host: self.host.clone(),
            scope: SCOPE.to_owned(),
            ttl: self.lease_ttl,
        })
    }

    fn statement_timeout(&self) -> Duration {
        self.lease_ttl * 2 / 3
    }
}

struct SimConnection {
    host: Host,
    statement_timeout: Duration,
    read_limit: Option<Duration>,
}

impl SimConnection {
    async fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        operation: impl FnMut(&mut Connection<'_>) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, StorageError> {
        statement(&self.host, (deadline, self.statement_timeout), operation).await
    }

    /// Reports what a checker found.
    fn checked<T>(
        &self,
        outcome: Result<(T, Option<String>), StorageError>,
    ) -> Result<T, StorageError> {
        let (value, wrong) = outcome?;
        if let Some(wrong) = wrong {
            self.host.sim.violated(wrong);
        }
        Ok(value)
    }

    /// A read sees what is there when it begins, and may take long.
    async fn read<T: Send + 'static>(
        &self,
        slots: usize,
        mut operation: impl FnMut(&mut Connection<'_>) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let limit = self.read_limit.unwrap_or(self.statement_timeout);
        let deadline = self
            .read_limit
            .map_or(LOOK_DEADLINE, |limit| limit + READ_GRACE);
        let sim = self.host.sim.clone();
        let serve = async move {
            let now = sim.now();
            let slots = u32::try_from(slots).unwrap_or(u32::MAX);
            let takes = sim.world().trouble.now(now).find_map(|fault| match fault {
                Fault::SlowReads(ms) => Some(Duration::from_millis(*ms) * slots),
                _ => None,
            });
            let session = Session::open(&sim);
            let found = session.run(limit, &mut operation).await?;
            let takes = takes.unwrap_or_default();
            tokio::time::sleep(takes.min(limit)).await;
            Some((takes <= limit).then_some(found))
        };
        let answer = async {
            let ended = self.host.request(Server::Postgres, serve).await?;
            // Ended by its time limit.
            Ok(ended.unwrap_or(Err(DatabaseError::Aborted)))
        };
        answered(deadline, answer).await
    }
}

fn pending_ids(conn: &Connection<'_>) -> BTreeSet<i64> {
    let pending = conn.database().pending();
    pending.map(|((_, id), _)| *id).collect()
}

fn is_held(conn: &Connection<'_>, id: i64) -> bool {
    conn.database().held().any(|(held, _)| *held == id)
}

/// Whether a member owns a slot under an epoch.
fn owns(conn: &Connection<'_>, member: MemberId, (slot, epoch): (Slot, i64)) -> bool {
    let lease = conn.database().lease(SCOPE, slot.number().into());
    lease.is_some_and(|row| row.owner == Some(member) && row.epoch == epoch)
}

#[async_trait]
impl OutboxConnection for SimConnection {
    async fn connect(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn limit_reads(&mut self, limit: Duration) {
        self.read_limit = Some(limit);
    }

    async fn read_pending(
        &mut self,
        slots: &[Slot],
        limits: BatchLimits,
        default_source: &str,
    ) -> Result<Batch, StorageError> {
        let (count, slots, source) = (slots.len(), slots.to_vec(), default_source.to_owned());
        let read = move |conn: &mut Connection<'_>| conn.read_pending(&slots, limits, &source);
        let batch = self.read(count, read).await?;
        if !batch.events.is_empty() {
            self.host.note(|| {
                let ids: Vec<_> = batch.events.iter().map(|event| event.id).collect();
                format!("reads {ids:?}")
            });
        }
        Ok(batch)
    }

    async fn unavailable_groups(
        &mut self,
        slots: &[Slot],
    ) -> Result<Vec<UnavailableGroup>, StorageError> {
        let (count, slots) = (slots.len(), slots.to_vec());
        self.read(count, move |conn| conn.unavailable_groups(&slots))
            .await
    }

    async fn remove_orphans(&mut self, orphans: &[Orphan]) -> Result<usize, StorageError> {
        let orphans = orphans.to_vec();
        self.call(CALL_DEADLINE, move |conn| conn.remove_orphans(&orphans))
            .await
    }

    async fn settle(&mut self, events: &mut [Settled]) -> Result<usize, StorageError> {
        let mut marks = events.to_vec();
        let settle = move |conn: &mut Connection<'_>| conn.settle(&mut marks);
        let outcome = self.call(CALL_DEADLINE, settle).await;
        self.host.note(|| {
            let ids: Vec<_> = events.iter().map(|event| event.id).collect();
            format!("settles {ids:?}: {outcome:?}")
        });
        outcome
    }

    async fn hold(
        &mut self,
        member: MemberId,
        holds: &[Hold],
    ) -> Result<Vec<HeldEvents>, StorageError> {
        let ids = holds.iter().map(|hold| hold.id);
        self.host.sim.world().oracle.held(ids);
        let asked = holds.to_vec();
        let mut pending = None;
        let hold = move |conn: &mut Connection<'_>| {
            let before = pending.get_or_insert_with(|| pending_ids(conn));
            let held = conn.hold(SCOPE, member, &asked)?;
            let after = pending_ids(conn);
            let moved = |hold: &&Hold| before.contains(&hold.id) && !after.contains(&hold.id);
            let fenced = |hold: &Hold| owns(conn, member, (hold.slot, hold.epoch));
            let mut moved = asked.iter().filter(moved);
            // One that was settled meanwhile is no longer pending either.
            let wrong = moved.find(|hold| is_held(conn, hold.id) && !fenced(hold));
            let id = wrong.map(|hold| hold.id);
            Ok((
                held,
                id.map(|id| format!("P6: event {id} was held without its slot")),
            ))
        };
        let outcome = self.checked(self.call(CALL_DEADLINE, hold).await);
        if outcome.is_err() {
            let ids = holds.iter().map(|hold| hold.id);
            self.host.sim.world().oracle.unknown_transaction(ids);
        }
        self.host.note(|| {
            let holds: Vec<_> = holds.iter().map(|h| (h.id, h.cause.as_str())).collect();
            format!("holds {holds:?}: {outcome:?}")
        });
        outcome
    }

    async fn move_back(
        &mut self,
        member: MemberId,
        of: (Slot, i64),
        from: MoveFrom<'_>,
        limit: i64,
    ) -> Result<i64, StorageError> {
        let (topic, destinations, lowest) = (
            from.topic.to_owned(),
            from.destinations.to_vec(),
            from.lowest,
        );
        let back = {
            let topic = topic.clone();
            move |conn: &mut Connection<'_>| {
                let from = MoveFrom {
                    topic: &topic,
                    destinations: &destinations,
                    lowest,
                };
                let moved = conn.move_back(SCOPE, member, of, from, limit)?;
                let wrong = moved > 0 && !owns(conn, member, of);
                let slot = of.0.number();
                let wrong = wrong.then(|| format!("P6: slot {slot} was changed without its lease"));
                Ok((moved, wrong))
            }
        };
        let outcome = self.checked(self.call(CALL_DEADLINE, back).await);
        self.host.note(|| {
            let slot = of.0.number();
            format!("moves back {topic} in slot {slot} from {lowest} on: {outcome:?}")
        });
        outcome
    }

    async fn clean(
        &mut self,
        done: Done,
        retention: Duration,
        after: Option<i64>,
        rows: i64,
    ) -> Result<Option<Cleaned>, StorageError> {
        self.call(CALL_DEADLINE, move |conn| {
            conn.clean(done, retention, after, rows)
        })
        .await
    }

    async fn counts(&mut self, bound: i64) -> Result<(Backlog, HeldCounts), StorageError> {
        let backlog = self.call(LOOK_DEADLINE, move |conn| conn.backlog(bound));
        let backlog = backlog.await?;
        let held = self.call(LOOK_DEADLINE, move |conn| conn.held_counts(bound));
        Ok((backlog, held.await?))
    }

    async fn horizon_holders(&mut self) -> Result<Vec<HorizonHolder>, StorageError> {
        let sim = &self.host.sim;
        let now = sim.now();
        let slow = |fault: &Fault| matches!(fault, Fault::SlowReads(_));
        let in_the_way = sim.world().trouble.now(now).any(slow);
        self.call(LOOK_DEADLINE, move |_| {
            let holder = HorizonHolder {
                name: "a report".to_owned(),
                transaction: "7".to_owned(),
                seconds: Some(60.0),
            };
            Ok(in_the_way.then_some(holder).into_iter().collect())
        })
        .await
    }

    async fn slots_to_watch(&mut self, member: MemberId) -> Result<Vec<Slot>, StorageError> {
        self.call(LOOK_DEADLINE, move |conn| {
            conn.slots_to_watch(SCOPE, member)
        })
        .await
    }

    async fn still_waiting(
        &mut self,
        events: &[(Slot, i64)],
    ) -> Result<HashSet<i64>, StorageError> {
        let events = events.to_vec();
        self.call(LOOK_DEADLINE, move |conn| conn.still_waiting(&events))
            .await
    }

    async fn lowest_pending(&mut self, slots: &[Slot]) -> Result<Vec<LowestPending>, StorageError> {
        let slots = slots.to_vec();
        self.call(LOOK_DEADLINE, move |conn| conn.lowest_pending(&slots))
            .await
    }

    async fn listen(&mut self) -> Result<(), StorageError> {
        self.call(CALL_DEADLINE, |_| Ok(())).await
    }

    async fn wake_up(&mut self) -> Result<(), StorageError> {
        self.host.sim.committed().notified().await;
        self.host.awake().await;
        Ok(())
    }
}
