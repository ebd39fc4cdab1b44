//! What a seed decides before anything happens: how large the world is, what the services are told, and
//! what goes wrong when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use crate::event::TOPICS;
use crate::operators::Command;
use crate::processes::{Service, Settings};
use crate::world::{Server, Side};
use crate::writers::Habits;

/// See the module.
#[derive(Debug, Clone)]
pub struct Plan {
    pub brokers: usize,
    pub settings: Settings,
    pub relays: usize,
    pub consumers: usize,
    pub writers: u32,
    pub habits: Habits,
    /// After this nothing goes wrong any more, and nothing is written.
    pub quiet_from: Duration,
    /// What happens, in order.
    pub steps: Vec<(Duration, Step)>,
}

/// Something that happens to the world.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A server, for so long.
    Down(Server, Duration),
    Mute(Server, Duration),
    LosesAnswers(Server, u32, Duration),
    LosesRequests(Server, u32, Duration),
    Slow(Server, u64, Duration),
    /// A process of a service, by its number among those that run.
    Cut(Service, usize, Side, Duration),
    Crash(Service, usize),
    Freeze(Service, usize, Duration),
    Stop(Service, usize),
    Start(Service),
    /// A partition.
    Refuses(&'static str, i32, Duration),
    RefusesAfterAppend(&'static str, i32, Duration),
    Stalls(&'static str, i32, Duration),
    MovesLeader(&'static str, i32),
    Throttles(u64, Duration),
    SlowReads(u64, Duration),
    NotifyFails(Duration),
    CreationRefused(Duration),
    Grows(&'static str),
    /// The topic is deleted; whoever needs it makes it again.
    Deleted(&'static str),
    Command(Command),
    /// Kafka deletes the records of a topic that the group has consumed.
    Trims(&'static str),
}

impl Step {
    /// Whether a lease may end because of it although its owner lives.
    pub fn may_end_a_lease(&self) -> bool {
        match self {
            Self::Down(server, _)
            | Self::Mute(server, _)
            | Self::LosesAnswers(server, ..)
            | Self::LosesRequests(server, ..)
            | Self::Slow(server, ..) => *server == Server::Postgres,
            Self::Cut(_, _, side, _) => *side == Side::Postgres,
            // Its requests are still out when it has to end.
            Self::Crash(..) | Self::Freeze(..) | Self::Stop(..) => true,
            _ => false,
        }
    }
}

/// A kind of step, to be chosen from.
type Kind = fn(&mut StdRng, &Sizes) -> Step;

struct Sizes {
    brokers: usize,
    partitions: i32,
    /// Longest time that something lasts.
    longest: Duration,
}

impl Sizes {
    fn time(&self, random: &mut StdRng) -> Duration {
        let share: f64 = random.random();
        self.longest.mul_f64(share * share) + Duration::from_millis(50)
    }

    fn partition(&self, random: &mut StdRng) -> (&'static str, i32) {
        let topic = TOPICS.choose(random).expect("there are topics");
        (topic, random.random_range(0..self.partitions))
    }

    fn broker(&self, random: &mut StdRng) -> Server {
        Server::Broker(random.random_range(0..self.brokers))
    }

    fn server(&self, random: &mut StdRng) -> Server {
        if random.random() {
            Server::Postgres
        } else {
            self.broker(random)
        }
    }
}

fn service(random: &mut StdRng) -> (Service, usize) {
    let service = if random.random_range(0..3) > 0 {
        Service::Relay
    } else {
        Service::Consumer
    };
    (service, random.random_range(0..8))
}

const KINDS: &[Kind] = &[
    |random, sizes| Step::Down(sizes.server(random), sizes.time(random)),
    |random, sizes| Step::Mute(sizes.server(random), sizes.time(random)),
    |random, sizes| {
        let share = random.random_range(1..60);
        Step::LosesAnswers(sizes.server(random), share, sizes.time(random))
    },
    |random, sizes| {
        let share = random.random_range(1..60);
        Step::LosesRequests(sizes.server(random), share, sizes.time(random))
    },
    |random, sizes| {
        let most = random.random_range(5..3_000);
        Step::Slow(sizes.server(random), most, sizes.time(random))
    },
    |random, sizes| {
        let (service, which) = service(random);
        let side = if random.random() {
            Side::Postgres
        } else {
            Side::Kafka
        };
        Step::Cut(service, which, side, sizes.time(random))
    },
    |random, _| {
        let (service, which) = service(random);
        Step::Crash(service, which)
    },
    |random, sizes| {
        let (service, which) = service(random);
        Step::Freeze(service, which, sizes.time(random))
    },
    |random, _| {
        let (service, which) = service(random);
        Step::Stop(service, which)
    },
    |random, _| Step::Start(service(random).0),
    |random, sizes| {
        let (topic, partition) = sizes.partition(random);
        Step::Refuses(topic, partition, sizes.time(random) * 2)
    },
    |random, sizes| {
        let (topic, partition) = sizes.partition(random);
        Step::RefusesAfterAppend(topic, partition, sizes.time(random))
    },
    |random, sizes| {
        let (topic, partition) = sizes.partition(random);
        Step::Stalls(topic, partition, sizes.time(random) * 2)
    },
    |random, sizes| {
        let (topic, partition) = sizes.partition(random);
        Step::MovesLeader(topic, partition)
    },
    |random, sizes| Step::Throttles(random.random_range(10..2_000), sizes.time(random)),
    |random, sizes| Step::SlowReads(random.random_range(5..1_500), sizes.time(random)),
    |random, sizes| Step::NotifyFails(sizes.time(random) * 2),
    |random, sizes| Step::CreationRefused(sizes.time(random)),
    |random, sizes| Step::Grows(sizes.partition(random).0),
    |random, sizes| Step::Deleted(sizes.partition(random).0),
    |random, sizes| Step::Trims(sizes.partition(random).0),
    |_, _| Step::Command(Command::Redrive),
    |_, _| Step::Command(Command::Discard),
    |_, _| Step::Command(Command::Replay),
    |_, _| Step::Command(Command::Retry),
    |_, _| Step::Command(Command::GiveUp),
    |_, _| Step::Command(Command::Reset),
];

impl Plan {
    /// The plan of a seed. Each has some kinds of trouble only, so that some have much of one kind.
    pub fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed ^ 0x5eed);
        let seconds = Duration::from_secs;
        // Some last for as long as inbox rows do, which is long beside everything else.
        let long = random.random_range(0..20) == 0;
        let quiet_from = if long {
            seconds(160)
        } else {
            seconds(*[15, 20, 25, 30].choose(random).expect("some"))
        };
        let sizes = Sizes {
            brokers: random.random_range(1..=3),
            partitions: random.random_range(1..=4),
            longest: seconds(*[2, 6, 12, 20].choose(random).expect("some")),
        };
        let mut kinds = KINDS.to_vec();
        kinds.shuffle(random);
        kinds.truncate(random.random_range(1..=7));
        let count = random.random_range(0..=14);
        let mut steps: Vec<(Duration, Step)> = (0..count)
            .map(|_| {
                let at = quiet_from.mul_f64(random.random::<f64>() * 0.9);
                let kind = kinds.choose(random).expect("at least one");
                (at, kind(random, &sizes))
            })
            .collect();
        steps.sort_by_key(|(at, _)| *at);
        let pauses = if long {
            [800, 1_500, 3_000]
        } else {
            [40, 150, 600]
        };
        // An event can be published again for as long as its row is there: until the next pass of the
        // cleaner. Its inbox row must be there for longer.
        let (outbox_retention, inbox_retention) = if long {
            (3, 70)
        } else {
            *[(3, 123), (10, 130), (3_600, 7_200)]
                .choose(random)
                .expect("some")
        };
        let writers = random.random_range(1..=4);
        Self {
            brokers: sizes.brokers,
            settings: Settings {
                lease_ttl: seconds(*[1, 2, 3, 5, 10].choose(random).expect("some")),
                partitions: sizes.partitions,
                events_per_slot: *[1, 2, 5, 500].choose(random).expect("some"),
                outbox_retention: seconds(outbox_retention),
                inbox_retention: seconds(inbox_retention),
            },
            relays: random.random_range(1..=3),
            consumers: random.random_range(1..=3),
            writers,
            habits: Habits {
                keys: *[1, 3, 12, 40].choose(random).expect("some"),
                pause: Duration::from_millis(*pauses.choose(random).expect("some")),
                late: *[0, 5, 30].choose(random).expect("some"),
                longest: seconds(*[1, 4, 10].choose(random).expect("some")),
                special: *[0, 0, 1, 4].choose(random).expect("some"),
                bulk: *[1, 8, 40].choose(random).expect("some"),
                events: 500 / writers,
            },
            quiet_from,
            steps,
        }
    }
}
