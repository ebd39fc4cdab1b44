//! What goes wrong and when. The seed alone decides it.

use std::time::Duration;

use crate::deployment::Service;
use crate::torture::fault::{BROKERS, Fault, INSTANCES, LEASE_TTL, Server, WRITERS};
use crate::torture::proxy::Condition;
use crate::torture::random::Random;

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

const DECK: [fn(&mut Random) -> Planned; 26] = [
    |r| {
        let instance = r.below(INSTANCES.len());
        planned(Fault::Restart(instance), r.millis(0, 1_000))
    },
    |r| {
        let relay_or_consumer = r.of(&[2, 3, 4, 5, 6, 7]);
        planned(Fault::Restart(relay_or_consumer), r.millis(0, 1_000))
    },
    |_| planned(Fault::EndSessions, Duration::ZERO),
    |r| planned(Fault::HoldReplication, r.millis(1_000, 9_000)),
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
        let behind = r.millis(1_000, 8_000);
        let behind = r.one_in(2).then_some(behind);
        let fault = Fault::CrashPrimary { early, behind };
        planned(fault, r.millis(500, 5_000))
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
}
