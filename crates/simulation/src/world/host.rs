//! A process, as the world sees it: it acts only by its requests.
//!
//! One that is dead sends and hears nothing any more; its tasks wait for ever. One that is frozen does
//! so until it thaws: what it was about to send goes out then, and what was answered meanwhile is heard
//! then.

use std::time::Duration;

use super::Sim;

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub usize);

/// What the world knows of a process.
#[derive(Debug, Clone)]
pub struct HostState {
    pub name: String,
    pub alive: bool,
    pub frozen_until: Duration,
    /// Since when it has been alive and not frozen.
    pub well_since: Duration,
}

/// A process. Clones are the same one.
#[derive(Clone)]
pub struct Host {
    pub id: HostId,
    pub sim: Sim,
}

impl Host {
    /// A process that starts now.
    pub fn start(sim: &Sim, name: String) -> Self {
        let now = sim.now();
        let id = {
            let world = &mut *sim.world();
            world.log.note(now, || format!("{name} starts"));
            world.hosts.push(HostState {
                name,
                alive: true,
                frozen_until: Duration::ZERO,
                well_since: now,
            });
            HostId(world.hosts.len() - 1)
        };
        Self {
            id,
            sim: sim.clone(),
        }
    }

    pub fn name(&self) -> String {
        self.sim.world().hosts[self.id.0].name.clone()
    }

    /// `kill -9`.
    pub fn crash(&self) {
        self.note(|| "crashes".to_owned());
        let world = &mut *self.sim.world();
        world.hosts[self.id.0].alive = false;
        world.oracle.process_failed(self.id);
    }

    /// It has ended in order.
    pub fn leave(&self) {
        self.note(|| "has ended".to_owned());
        self.sim.world().hosts[self.id.0].alive = false;
    }

    /// `kill -STOP`, and `kill -CONT` after so long.
    pub fn freeze(&self, time: Duration) {
        self.note(|| format!("freezes for {time:?}"));
        let until = self.sim.now() + time;
        let world = &mut *self.sim.world();
        let host = &mut world.hosts[self.id.0];
        host.frozen_until = host.frozen_until.max(until);
        host.well_since = host.frozen_until;
        world.oracle.process_failed(self.id);
    }

    /// Notes what the process does.
    pub fn note(&self, what: impl FnOnce() -> String) {
        self.sim.note_of(self.id, what);
    }

    pub fn is_alive(&self) -> bool {
        self.sim.world().hosts[self.id.0].alive
    }

    /// Waits while the process is frozen, for ever if it is dead.
    pub async fn awake(&self) {
        loop {
            let (alive, thaws) = {
                let host = &self.sim.world().hosts[self.id.0];
                (host.alive, host.frozen_until)
            };
            if !alive {
                std::future::pending::<()>().await;
            }
            match thaws.checked_sub(self.sim.now()) {
                None | Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
            }
        }
    }
}
