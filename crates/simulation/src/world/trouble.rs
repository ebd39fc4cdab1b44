//! What is wrong with the world at a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{HostId, Server};

/// Something that goes wrong for a while.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The server's machine refuses connections.
    Down(Server),
    /// Requests to the server vanish.
    Mute(Server),
    /// Requests of one process to one kind of server vanish.
    Cut(HostId, Side),
    /// Of requests to the server, this many of a hundred lose their answer.
    LosesAnswers(Server, u32),
    /// The same of the requests themselves: they never arrive.
    LosesRequests(Server, u32),
    /// Requests to the server and answers take up to so many milliseconds.
    Slow(Server, u64),
    /// A partition is refused before anything is appended: it has too few replicas in sync.
    Refuses(String, i32),
    /// A partition appends, and then says that it has too few replicas in sync.
    RefusesAfterAppend(String, i32),
    /// The partition's requests wait, and are served once this is over.
    Stalls(String, i32),
    /// A quota delays requests that follow a request, by so many milliseconds.
    Throttles(u64),
    /// A read takes so many milliseconds for each slot.
    SlowReads(u64),
    /// No notification can be sent.
    NotifyFails,
    /// Topics cannot be created.
    CreationRefused,
}

/// One of the two kinds of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Postgres,
    Kafka,
}

/// The faults that are there, and until when.
#[derive(Debug, Default)]
pub struct Trouble(BTreeMap<Fault, Duration>);

impl Trouble {
    pub fn begin(&mut self, fault: Fault, until: Duration) {
        let end = self.0.entry(fault).or_default();
        *end = until.max(*end);
    }

    /// Forgets those that are over.
    pub fn pass(&mut self, now: Duration) {
        self.0.retain(|_, until| *until > now);
    }

    /// All of them at a moment.
    pub fn now(&self, now: Duration) -> impl Iterator<Item = &Fault> {
        let there = self.0.iter().filter(move |(_, until)| **until > now);
        there.map(|(fault, _)| fault)
    }

    /// Until when this one is there.
    pub fn until(&self, fault: &Fault, now: Duration) -> Option<Duration> {
        self.0.get(fault).copied().filter(|until| *until > now)
    }

    pub fn is(&self, fault: &Fault, now: Duration) -> bool {
        self.until(fault, now).is_some()
    }
}
