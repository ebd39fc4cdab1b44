//! The world that the services live in: a Postgres, a Kafka, networks between them, and time.

mod host;
mod kafka;
mod log;
mod network;
mod trouble;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use host::{Host, HostId, HostState};
pub use kafka::{Kafka, Partition, Record, refusal};
pub use log::Log;
pub use network::{Broken, Server};
pub use trouble::{Fault, Side, Trouble};

use crate::check::Oracle;
use crate::database::Database;

/// Everything that is shared. Clones share it.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    start: Instant,
    world: Mutex<World>,
    /// A transaction ended: what waits for a lock may go on.
    transaction_ended: Notify,
    /// A record was appended.
    appended: Notify,
    /// Events were committed, and their writer says so.
    committed: Notify,
    /// A lease was handed over, and its owner says so.
    handed_over: Notify,
}

/// What there is.
pub struct World {
    pub database: Database,
    pub kafka: Kafka,
    pub hosts: Vec<HostState>,
    pub trouble: Trouble,
    pub random: StdRng,
    /// Topics and keys that a writer has an open transaction about.
    pub busy: BTreeSet<(&'static str, String)>,
    pub oracle: Oracle,
    pub log: Log,
}

impl Sim {
    /// A world in which nothing has happened. To be called on a runtime whose clock is paused.
    pub fn new(seed: u64, database: Database, kafka: Kafka, log: Log) -> Self {
        Self(Arc::new(Shared {
            start: Instant::now(),
            world: Mutex::new(World {
                database,
                kafka,
                hosts: Vec::new(),
                trouble: Trouble::default(),
                random: StdRng::seed_from_u64(seed),
                busy: BTreeSet::new(),
                oracle: Oracle::default(),
                log,
            }),
            transaction_ended: Notify::new(),
            appended: Notify::new(),
            committed: Notify::new(),
            handed_over: Notify::new(),
        }))
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// The world at this moment. Nobody else acts while it is held, so never hold it across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happens, for people and for telling two runs apart.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let now = self.now();
        self.world().log.note(now, what);
    }

    /// Notes what a process does.
    pub fn note_of(&self, host: HostId, what: impl FnOnce() -> String) {
        let now = self.now();
        let verbose = self.world().log.is_verbose();
        // What it tells may be in the world, too.
        let what = if verbose { what() } else { String::new() };
        let world = &mut *self.world();
        let name = &world.hosts[host.0].name;
        world.log.note(now, || format!("{name} {what}"));
    }

    /// Reports that a promise was broken. The run ends with it.
    pub fn violated(&self, what: String) {
        let now = self.now();
        let world = &mut *self.world();
        world.log.note(now, || format!("VIOLATION {what}"));
        world.oracle.violated(now, what);
    }

    pub fn transaction_ended(&self) -> &Notify {
        &self.0.transaction_ended
    }

    pub fn appended(&self) -> &Notify {
        &self.0.appended
    }

    pub fn committed(&self) -> &Notify {
        &self.0.committed
    }

    pub fn handed_over(&self) -> &Notify {
        &self.0.handed_over
    }

    /// A number from 0 to 1.
    pub fn chance(&self) -> f64 {
        self.world().random.random()
    }
}
