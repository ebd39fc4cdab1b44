//! What goes wrong and when. The seed alone decides it.

use std::fmt;
use std::time::Duration;

use crate::deployment::Service;
use crate::torture::proxy::Condition;
use crate::torture::random::Random;

/// The instances of all services, by their places.
pub(crate) const INSTANCES: [Service; 8] = [
    Service::Api,
    Service::Api,
    Service::Relay,
    Service::Relay,
    Service::Relay,
    Service::Consumer,
    Service::Consumer,
    Service::Consumer,
];
pub(crate) const BROKERS: usize = 3;
/// The broker whose records lie in a file system of their own.
pub(crate) const BROKER_WITH_SMALL_DISK: usize = 3;
/// Programs that write events with SQL.
pub(crate) const WRITERS: usize = 4;
/// How long a dead process keeps its leases.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(3);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL to an instance. It is started again when the fault ends.
    Kill(usize),
    /// SIGKILL to all instances of a service.
    KillAll(Service),
    /// SIGTERM to an instance, which must end well. It is started again when the fault ends.
    Restart(usize),
    /// SIGSTOP, and SIGCONT when the fault ends.
    Freeze(usize),
    /// The way of one instance to a server.
    Network {
        instance: usize,
        to: Server,
        condition: Condition,
        /// Connections that were there do not work any more after it, as behind a firewall that
        /// forgot them.
        forgets: bool,
    },
    /// The way of a writer to Postgres.
    WriterNetwork {
        writer: usize,
        condition: Condition,
    },
    /// The ways of all to Postgres.
    AllToPostgres(Condition),
    /// An operator ends all sessions of the primary.
    EndSessions,
    KillBroker(usize),
    FreezeBroker(usize),
    /// No byte is left on the disk of [`BROKER_WITH_SMALL_DISK`].
    FillDisk,
    /// Each partition gets another leader.
    MoveLeaders {
        by: usize,
    },
    /// The primary is killed, and the standby is promoted.
    CrashPrimary {
        /// Clients are led to the standby before it is promoted.
        early: bool,
    },
}

/// Where a way leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Postgres,
    /// All brokers.
    Kafka,
    Broker(usize),
}

/// What only one fault at a time may do something to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Instances,
    Brokers,
    Postgres,
}

impl Fault {
    /// What the report counts together.
    pub(crate) fn kind(self) -> String {
        match self {
            Self::Kill(place) => format!("{} killed", INSTANCES[place]),
            Self::KillAll(service) => format!("every {service} killed"),
            Self::Restart(place) => format!("{} restarted", INSTANCES[place]),
            Self::Freeze(place) => format!("{} frozen", INSTANCES[place]),
            Self::Network {
                instance,
                to,
                condition,
                ..
            } => {
                let (service, condition) = (INSTANCES[instance], condition.name());
                match to {
                    Server::Postgres => format!("{service} to Postgres {condition}"),
                    Server::Kafka => format!("{service} to Kafka {condition}"),
                    Server::Broker(_) => format!("{service} to one broker {condition}"),
                }
            }
            Self::WriterNetwork { condition, .. } => {
                format!("writer to Postgres {}", condition.name())
            }
            Self::AllToPostgres(condition) => format!("all to Postgres {}", condition.name()),
            Self::EndSessions => "sessions of Postgres ended".to_owned(),
            Self::KillBroker(_) => "broker killed".to_owned(),
            Self::FreezeBroker(_) => "broker frozen".to_owned(),
            Self::FillDisk => "disk of a broker full".to_owned(),
            Self::MoveLeaders { .. } => "leaders moved".to_owned(),
            Self::CrashPrimary { .. } => "primary crashed, standby promoted".to_owned(),
        }
    }

    fn target(self) -> Target {
        match self {
            Self::Kill(_)
            | Self::KillAll(_)
            | Self::Restart(_)
            | Self::Freeze(_)
            | Self::Network { .. } => Target::Instances,
            Self::KillBroker(_)
            | Self::FreezeBroker(_)
            | Self::FillDisk
            | Self::MoveLeaders { .. } => Target::Brokers,
            Self::WriterNetwork { .. }
            | Self::AllToPostgres(_)
            | Self::EndSessions
            | Self::CrashPrimary { .. } => Target::Postgres,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match *self {
            Self::Kill(place) | Self::Restart(place) | Self::Freeze(place) => {
                write!(f, " ({})", instance_name(place))
            }
            Self::Network {
                instance,
                to,
                forgets,
                ..
            } => {
                let broker = match to {
                    Server::Broker(id) => format!(", broker {id}"),
                    Server::Postgres | Server::Kafka => String::new(),
                };
                let forgets = if forgets { ", then closed" } else { "" };
                write!(f, " ({}{broker}{forgets})", instance_name(instance))
            }
            Self::WriterNetwork { writer, .. } => write!(f, " (writer {writer})"),
            Self::KillBroker(id) | Self::FreezeBroker(id) => write!(f, " (broker {id})"),
            Self::MoveLeaders { by } => write!(f, " (by {by})"),
            Self::CrashPrimary { early: true } => write!(f, " (clients led there before)"),
            Self::KillAll(_)
            | Self::AllToPostgres(_)
            | Self::EndSessions
            | Self::FillDisk
            | Self::CrashPrimary { early: false } => Ok(()),
        }
    }
}

/// Such as `outbox-relay-2`.
pub(crate) fn instance_name(place: usize) -> String {
    let service = INSTANCES[place];
    let before = INSTANCES[..place].iter().filter(|s| **s == service).count();
    format!("{service}-{}", before + 1)
}

/// A fault, and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Time before it, in which nothing is wrong.
    pub(crate) pause: Duration,
    pub(crate) first: Planned,
    /// Begins while the first lasts, and ends after it.
    pub(crate) second: Option<Planned>,
}

/// All steps, without end: every kind once in random order, then again.
#[derive(Debug)]
pub(crate) struct Plan {
    random: Random,
    deck: Vec<fn(&mut Random) -> Planned>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed, 0),
            deck: Vec::new(),
        }
    }

    fn draw(&mut self) -> Planned {
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
        }
        let place = self.random.below(self.deck.len());
        self.deck.swap_remove(place)(&mut self.random)
    }

    pub(crate) fn next(&mut self) -> Step {
        let pause = self.random.millis(500, 4_000);
        let first = self.draw();
        let second = (self.random.one_in(3)).then(|| self.draw());
        Step {
            pause,
            first,
            second: second.filter(|second| second.fault.target() != first.fault.target()),
        }
    }
}

const DECK: [fn(&mut Random) -> Planned; 25] = [
    |r| {
        let instance = r.below(INSTANCES.len());
        planned(Fault::Restart(instance), r.millis(0, 1_000))
    },
    |r| {
        let relay_or_consumer = r.of(&[2, 3, 4, 5, 6, 7]);
        planned(Fault::Restart(relay_or_consumer), r.millis(0, 1_000))
    },
    |_| planned(Fault::EndSessions, Duration::ZERO),
    |r| planned(Fault::Kill(r.of(&[0, 1])), r.millis(500, 4_000)),
    |r| planned(Fault::Kill(r.of(&[2, 3, 4])), r.millis(500, 6_000)),
    |r| planned(Fault::Kill(r.of(&[2, 3, 4])), r.millis(0, 500)),
    |r| planned(Fault::Kill(r.of(&[5, 6, 7])), r.millis(500, 6_000)),
    |r| planned(Fault::Kill(r.of(&[5, 6, 7])), r.millis(0, 500)),
    |r| planned(Fault::KillAll(Service::Relay), r.millis(0, 4_000)),
    |r| planned(Fault::KillAll(Service::Consumer), r.millis(0, 4_000)),
    |r| planned(Fault::Freeze(r.of(&[0, 1])), r.millis(1_000, 6_000)),
    |r| planned(Fault::Freeze(r.of(&[2, 3, 4])), past_the_lease(r)),
    |r| planned(Fault::Freeze(r.of(&[2, 3, 4])), past_the_lease(r)),
    |r| planned(Fault::Freeze(r.of(&[5, 6, 7])), past_the_lease(r)),
    |r| to_postgres(r, &[0, 1]),
    |r| to_postgres(r, &[2, 3, 4]),
    |r| to_postgres(r, &[5, 6, 7]),
    |r| to_kafka(r, &[2, 3, 4]),
    |r| to_kafka(r, &[2, 3, 4, 5, 6, 7]),
    |r| {
        let (writer, condition) = (r.below(WRITERS), condition(r));
        let fault = Fault::WriterNetwork { writer, condition };
        planned(fault, r.millis(1_000, 8_000))
    },
    |r| {
        let condition = condition(r);
        planned(Fault::AllToPostgres(condition), r.millis(1_000, 8_000))
    },
    |r| {
        let broker = 1 + r.below(BROKERS);
        if r.one_in(2) {
            planned(Fault::KillBroker(broker), r.millis(1_000, 12_000))
        } else {
            planned(Fault::FreezeBroker(broker), r.millis(2_000, 15_000))
        }
    },
    |r| planned(Fault::FillDisk, r.millis(2_000, 8_000)),
    |r| {
        let by = 1 + r.below(BROKERS - 1);
        planned(Fault::MoveLeaders { by }, Duration::from_secs(2))
    },
    |r| {
        let early = r.one_in(2);
        planned(Fault::CrashPrimary { early }, r.millis(500, 5_000))
    },
];

fn planned(fault: Fault, lasts: Duration) -> Planned {
    Planned { fault, lasts }
}

/// For a little less than Postgres gives a process, or for longer: its own clock ends its leases
/// after 0.8 of the time.
fn past_the_lease(random: &mut Random) -> Duration {
    let tenths = random.of(&[9, 15, 30]);
    LEASE_TTL * tenths / 10 + random.millis(0, 300)
}

fn condition(random: &mut Random) -> Condition {
    let delay = random.millis(20, 400);
    random.of(&[
        Condition::Cut,
        Condition::Slow(delay),
        Condition::Mute,
        Condition::WithoutAnswers,
    ])
}

fn to_postgres(random: &mut Random, instances: &[usize]) -> Planned {
    let fault = Fault::Network {
        instance: random.of(instances),
        to: Server::Postgres,
        condition: condition(random),
        forgets: random.one_in(2),
    };
    planned(fault, random.millis(1_000, 10_000))
}

fn to_kafka(random: &mut Random, instances: &[usize]) -> Planned {
    let broker = Server::Broker(1 + random.below(BROKERS));
    let fault = Fault::Network {
        instance: random.of(instances),
        to: random.of(&[Server::Kafka, broker]),
        condition: condition(random),
        forgets: random.one_in(2),
    };
    planned(fault, random.millis(1_000, 15_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_all_steps() {
        let steps = |seed| {
            let mut plan = Plan::new(seed);
            [(); 60].map(|()| plan.next())
        };
        assert_eq!(steps(5), steps(5));
        assert_ne!(steps(5), steps(6));
        let clash = |step: &Step| {
            let second = step.second.map(|second| second.fault.target());
            second == Some(step.first.fault.target())
        };
        assert!(!steps(5).iter().any(clash));
    }

    #[test]
    fn instances_are_counted_by_service() {
        assert_eq!(instance_name(0), "order-api-1");
        assert_eq!(instance_name(4), "outbox-relay-3");
        assert_eq!(instance_name(5), "order-consumer-1");
    }
}
