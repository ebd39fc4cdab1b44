//! Watches that this process is a live member of its group, and that the members own all
//! partitions. Without this check a process that owns nothing would be ready although nothing is
//! consumed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use service::ReadinessIssues;
use storage::lease::{MemberId, Snapshot};
use tokio::time::Instant;

use crate::ports::Inbox;

const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A partition is without an owner for a moment whenever one dies; for longer it should not be.
const OWNERLESS: Duration = Duration::from_secs(30);

/// How many partitions the topic has, as was seen last. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct PartitionCount(Arc<AtomicI32>);

impl PartitionCount {
    pub(crate) fn new(count: i32) -> Self {
        Self(Arc::new(AtomicI32::new(count)))
    }

    pub(crate) fn set(&self, count: i32) {
        self.0.store(count, Ordering::Relaxed);
    }

    fn get(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
pub(crate) struct Membership {
    pub(crate) inbox: Box<dyn Inbox>,
    pub(crate) scope: String,
    pub(crate) member: MemberId,
    pub(crate) topic: String,
    pub(crate) partitions: PartitionCount,
    pub(crate) postgres: ReadinessIssues,
    pub(crate) progress: ReadinessIssues,
}

/// What this process' leases are if it is no live member.
const RUN_OUT: &str = "expired and not renewed; this process consumes nothing of the topic";

impl Membership {
    /// Looks until it is dropped.
    pub(crate) async fn watch(mut self) -> Infallible {
        let mut ownerless = Ownerless::default();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let looked = self.inbox.lease_snapshot(&self.scope).await;
            match &looked {
                Ok(snapshot) if snapshot.members.iter().any(|m| m.id == self.member) => {
                    self.postgres.clear(self.who());
                }
                Ok(_) => self.postgres.report(self.who(), RUN_OUT),
                Err(error) => self.postgres.report(self.who(), error),
            }
            if let Ok(snapshot) = looked {
                let news = ownerless.update(&snapshot, self.partitions.get(), Instant::now());
                self.progress
                    .update(news.into_iter().map(|(partition, waits)| {
                        let who = format!("owner of {}/{partition}", self.topic);
                        (who, waits.map(reason))
                    }));
            }
        }
    }

    fn who(&self) -> String {
        format!("leases of {}", self.scope)
    }
}

fn reason(waits: Duration) -> String {
    let seconds = waits.as_secs();
    format!("no process of the group has owned it for {seconds} s; the log says why leases fail")
}

/// Since when partitions have had no live owner.
#[derive(Debug, Default)]
struct Ownerless(BTreeMap<i32, Instant>);

impl Ownerless {
    /// Partitions that have been without an owner for too long, with that time, and those that have
    /// one again.
    fn update(
        &mut self,
        snapshot: &Snapshot,
        partitions: i32,
        now: Instant,
    ) -> Vec<(i32, Option<Duration>)> {
        let is_alive = |owner: MemberId| snapshot.members.iter().any(|member| member.id == owner);
        let owned = |partition: i32| {
            let mut units = snapshot.units.iter();
            units.any(|unit| unit.number == partition && unit.owner.is_some_and(is_alive))
        };
        let mut news = Vec::new();
        self.0.retain(|&partition, _| {
            let ended = partition >= partitions || owned(partition);
            if ended {
                news.push((partition, None));
            }
            !ended
        });
        for partition in (0..partitions).filter(|partition| !owned(*partition)) {
            let waits = now.duration_since(*self.0.entry(partition).or_insert(now));
            if waits >= OWNERLESS {
                news.push((partition, Some(waits)));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use storage::lease::{Member, Unit};

    use super::*;

    #[test]
    fn a_partition_without_a_live_owner_is_reported_after_a_while() {
        let (alive, dead) = (MemberId::generate(), MemberId::generate());
        let snapshot = |owners: [Option<MemberId>; 3]| Snapshot {
            members: vec![Member {
                id: alive,
                expires_in: OWNERLESS,
            }],
            units: (0..)
                .zip(owners)
                .map(|(number, owner)| Unit {
                    number,
                    epoch: 1,
                    owner,
                })
                .collect(),
        };
        let mut ownerless = Ownerless::default();
        let start = Instant::now();
        // The last one is left from a topic that had more.
        let some = snapshot([Some(alive), Some(dead), None]);
        assert_eq!(ownerless.update(&some, 2, start), []);
        let later = start + OWNERLESS;
        assert_eq!(ownerless.update(&some, 2, later), [(1, Some(OWNERLESS))]);
        let all = snapshot([Some(alive), Some(alive), None]);
        assert_eq!(ownerless.update(&all, 2, later), [(1, None)]);
        assert_eq!(ownerless.update(&some, 2, later), [], "from now on");
    }
}
