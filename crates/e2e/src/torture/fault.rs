//! What can go wrong, and with what.

use std::fmt;
use std::time::Duration;

use crate::deployment::Service;
use crate::torture::proxy::Condition;

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
    /// The standby gets nothing, and commits wait for it.
    HoldReplication,
    /// The primary is killed, and the standby is promoted.
    CrashPrimary {
        /// Clients are led to the standby before it is promoted.
        early: bool,
        /// The standby has got nothing for this long, so that commits wait.
        behind: Option<Duration>,
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
pub(crate) enum Target {
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
            Self::HoldReplication => "standby behind".to_owned(),
            Self::CrashPrimary { .. } => "primary crashed, standby promoted".to_owned(),
        }
    }

    /// Two faults at once have different ones.
    pub(crate) fn target(self) -> Target {
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
            | Self::HoldReplication
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
            Self::CrashPrimary { early, behind } => {
                if let Some(behind) = behind {
                    write!(f, " (the standby {behind:?} behind)")?;
                }
                let when = if early { "before" } else { "after" };
                write!(f, " (clients led there {when} that)")
            }
            Self::KillAll(_)
            | Self::AllToPostgres(_)
            | Self::EndSessions
            | Self::HoldReplication
            | Self::FillDisk => Ok(()),
        }
    }
}

/// Such as `outbox-relay-2`.
pub(crate) fn instance_name(place: usize) -> String {
    let service = INSTANCES[place];
    let before = INSTANCES[..place].iter().filter(|s| **s == service).count();
    format!("{service}-{}", before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_counted_by_service() {
        assert_eq!(instance_name(0), "order-api-1");
        assert_eq!(instance_name(4), "outbox-relay-3");
        assert_eq!(instance_name(5), "order-consumer-1");
    }
}
