//! One run: the world of a seed, from its beginning until all is well or a promise is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use storage::outbox::HoldCause;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::database::{Database, Mutation};
use crate::event::TOPICS;
use crate::operators::Operator;
use crate::plan::{Plan, Step};
use crate::processes::{Process, Processes, Service};
use crate::system::seed_system;
use crate::world::{Fault, Host, Kafka, Log, Server, Sim};
use crate::writers;

/// Time between two looks at the world.
const TICK: Duration = Duration::from_millis(250);
/// P11: how long after all trouble everything must have happened. Half a minute after its causes are
/// gone, a minute where a request may be out that long, and the time of a takeover.
const PATIENCE: Duration = Duration::from_secs(75);
/// How long the first event of a partition may wait before somebody must say so: half a minute, and the
/// time between two looks.
const SILENCE: Duration = Duration::from_secs(50);

/// Time from the end of a failure until what waited for it is gone, or reported for another reason.
const MOMENT: Duration = Duration::from_secs(15);

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the statements lack.
    pub mutation: Option<Mutation>,
    /// Steps of the plan that are left out.
    pub without: BTreeSet<usize>,
    /// Print everything that happens.
    pub verbose: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The promise that was broken, and when.
    pub violation: Option<(Duration, String)>,
    /// Time that passed in the world.
    pub lasted: Duration,
    pub events: usize,
    pub duplicates: u64,
    /// Two runs of a seed have the same.
    pub fingerprint: u64,
    /// The steps that were taken, with their numbers.
    pub steps: Vec<(usize, String)>,
}

/// Runs a seed. Once in a process: what is random in it begins with the seed.
///
/// # Panics
/// When no runtime can be built.
pub fn run(seed: u64, options: &Options) -> Outcome {
    seed_system(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("a runtime needs nothing but memory");
    runtime.block_on(async {
        let plan = Plan::of(seed);
        let mut run = Run::begin(seed, plan, options);
        run.drive().await;
        run.outcome()
    })
}

/// What is pending in a slot, or what is held there for a partition of a topic.
type Queue = (i16, Option<(String, i32)>);

struct Run {
    sim: Sim,
    plan: Plan,
    steps: Vec<(usize, Duration, Step)>,
    taken: Vec<(usize, String)>,
    processes: Processes,
    operator: Operator,
    writers: JoinSet<()>,
    /// Since when nothing goes wrong.
    calm_since: Duration,
    /// When a relay last said that it is not ready.
    reported: Duration,
    /// What the processes said of their readiness.
    told: String,
    /// The first waiting event of each, and since when it is the first.
    first: BTreeMap<Queue, (i64, Duration)>,
}

impl Run {
    fn begin(seed: u64, plan: Plan, options: &Options) -> Self {
        let mut kafka = Kafka::new(plan.brokers);
        for topic in TOPICS {
            kafka.create(topic, plan.settings.partitions);
        }
        let database = Database::new(options.mutation);
        let sim = Sim::new(seed, database, kafka, Log::new(options.verbose));
        sim.note(|| format!("{plan:#?}"));
        let mut processes = Processes::new(&sim, plan.settings.clone());
        for _ in 0..plan.relays {
            processes.start(Service::Relay);
        }
        for _ in 0..plan.consumers {
            processes.start(Service::Consumer);
        }
        let operator = Operator {
            host: Host::start(&sim, "operator".to_owned()),
        };
        let mut writers = JoinSet::new();
        for writer in 1..=plan.writers {
            let habits = plan.habits.clone();
            writers.spawn(writers::write(sim.clone(), writer, habits, plan.quiet_from));
        }
        let steps = plan.steps.clone().into_iter().enumerate();
        let steps = steps.filter(|(number, _)| !options.without.contains(number));
        let steps = steps
            .map(|(number, (at, step))| (number, at, step))
            .collect();
        Self {
            sim,
            plan,
            steps,
            taken: Vec::new(),
            processes,
            operator,
            writers,
            calm_since: Duration::ZERO,
            reported: Duration::ZERO,
            told: String::new(),
            first: BTreeMap::new(),
        }
    }

    async fn drive(&mut self) {
        for (number, at, step) in std::mem::take(&mut self.steps) {
            while self.sim.now() < at {
                if !self.tick(at).await {
                    return;
                }
            }
            self.sim.note(|| format!("step {number}: {step:?}"));
            self.taken.push((number, format!("{at:?} {step:?}")));
            self.calm_since = self.calm_since.max(self.sim.now());
            self.take(&step);
        }
        while self.sim.now() < self.plan.quiet_from {
            if !self.tick(self.plan.quiet_from).await {
                return;
            }
        }
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("a writer does not panic");
        }
        self.settle().await;
    }

    /// Nothing goes wrong any more. Everything must have happened within [`PATIENCE`].
    async fn settle(&mut self) {
        for service in [Service::Relay, Service::Consumer] {
            if self.processes.running(service).is_empty() {
                self.processes.start(service);
            }
        }
        self.sim.note(|| "all trouble is over".to_owned());
        self.sim.world().oracle.mend();
        let over = self.sim.now() + PATIENCE;
        loop {
            self.operator.put_right().await;
            let next = self.sim.now() + TICK * 4;
            while self.sim.now() < next {
                if !self.tick(next).await {
                    return;
                }
            }
            let missing = self.missing();
            match missing {
                None => return self.check_counts(),
                Some(missing) if self.sim.now() >= over => {
                    let ready = self.readiness();
                    return self.sim.violated(format!("P11: {missing}{ready}"));
                }
                Some(_) => {}
            }
        }
    }

    fn check_counts(&self) {
        let relays = self.processes.running(Service::Relay);
        let wrong = relays.iter().find_map(|relay| {
            let world = self.sim.world();
            world.oracle.check_count(relay.host.id, relay.resent())
        });
        if let Some(wrong) = wrong {
            self.sim.violated(wrong);
        }
    }

    /// Lets time pass, `until` at most, and looks at what is true at any moment. False when something
    /// is not.
    async fn tick(&mut self, until: Duration) -> bool {
        let left = until.saturating_sub(self.sim.now());
        tokio::time::sleep(left.min(TICK).max(Duration::from_micros(1))).await;
        let now = self.sim.now();
        let wrong = {
            let world = &mut *self.sim.world();
            if world.trouble.now(now).next().is_some() {
                self.calm_since = now;
            }
            world.trouble.pass(now);
            world.oracle.check_states(&world.database)
        };
        let wrong = wrong.or_else(|| self.unreported(now));
        let readiness = self.readiness();
        if readiness != self.told {
            self.sim.note(|| format!("readiness{readiness}"));
            self.told = readiness;
        }
        if let Some(wrong) = wrong {
            self.sim.violated(wrong);
        }
        self.sim.world().oracle.violation().is_none()
    }

    /// An event that has been the first of all that is pending in its slot, or of what is held there for
    /// its partition, for long, while every relay says that it is ready.
    fn unreported(&mut self, now: Duration) -> Option<String> {
        let mut waiting = BTreeSet::new();
        let mut first: BTreeMap<Queue, i64> = BTreeMap::new();
        {
            let world = self.sim.world();
            let pending = world.database.pending();
            let pending = pending.map(|((slot, id), _)| ((*slot, None), *id));
            let held = world.database.held();
            let held = held.filter(|(_, row)| row.cause == HoldCause::Unavailable);
            let held = held.map(|(id, row)| {
                let to = (row.topic.clone(), row.destination.partition);
                ((row.slot, Some(to)), *id)
            });
            for (queue, id) in pending.chain(held) {
                waiting.insert(id);
                let lowest = first.entry(queue).or_insert(id);
                *lowest = id.min(*lowest);
            }
        }
        self.first.retain(|_, (id, _)| waiting.contains(id));
        for (queue, id) in first {
            let watched = self.first.entry(queue).or_insert((id, now));
            if id < watched.0 {
                *watched = (id, now);
            }
        }
        let relays = self.processes.running(Service::Relay);
        let well = |relay: &Process| {
            let world = self.sim.world();
            world.hosts[relay.host.id.0].well_since + SILENCE < now
        };
        if !relays.iter().any(well) || relays.iter().any(|relay| !relay.readiness.is_ready()) {
            self.reported = now;
            return None;
        }
        // What was just reported may be about to go.
        if now < self.reported + MOMENT {
            return None;
        }
        let mut watched = self.first.iter();
        let calm = self.calm_since;
        let waits = watched.find(|(_, (_, since))| calm.max(*since) + SILENCE < now);
        waits.map(|((slot, _), (id, since))| {
            let waited = now.saturating_sub(*since);
            format!(
                "P11: event {id} (slot {slot}) has waited for {waited:?}, and every relay is ready"
            )
        })
    }

    /// What has not happened yet.
    fn missing(&self) -> Option<String> {
        let world = &mut *self.sim.world();
        let database = &world.database;
        let held = database
            .held()
            .filter(|(_, row)| row.discarded_at.is_none());
        let held: Vec<_> = held
            .map(|(id, row)| (*id, row.cause.as_str()))
            .take(10)
            .collect();
        let pending: Vec<i64> = database
            .pending()
            .map(|((_, id), _)| *id)
            .take(10)
            .collect();
        if !pending.is_empty() || !held.is_empty() {
            return Some(format!("pending {pending:?}, held {held:?}"));
        }
        let never = world.oracle.never_published();
        if !never.is_empty() {
            return Some(format!("never published {never:?}"));
        }
        let without = world.oracle.missing_effects();
        if !without.is_empty() {
            return Some(format!("without effect {without:?}"));
        }
        None
    }

    fn readiness(&self) -> String {
        let mut text = String::new();
        for service in [Service::Relay, Service::Consumer] {
            for process in self.processes.running(service) {
                let checks = process.readiness.report().checks;
                for check in checks.iter().filter(|check| !check.ready) {
                    let reason = check.reason.clone().unwrap_or_default();
                    let name = process.host.name();
                    let _ = write!(text, "; {name}: {}: {reason}", check.name);
                }
            }
        }
        text
    }

    fn begin_fault(&self, fault: Fault, lasts: Duration) {
        let now = self.sim.now();
        let until = (now + lasts).min(self.plan.quiet_from);
        self.sim.world().trouble.begin(fault, until);
    }

    fn one(&self, service: Service, which: usize) -> Option<Process> {
        let running = self.processes.running(service);
        let index = which.checked_rem(running.len())?;
        running.into_iter().nth(index)
    }

    fn take(&mut self, step: &Step) {
        if step.may_end_a_lease() {
            self.sim.world().oracle.leases_may_lapse();
        }
        match step.clone() {
            Step::Down(server, lasts) => {
                if server == Server::Postgres {
                    self.sim.world().database.crash();
                    self.sim.transaction_ended().notify_waiters();
                }
                self.begin_fault(Fault::Down(server), lasts);
            }
            Step::Mute(server, lasts) => self.begin_fault(Fault::Mute(server), lasts),
            Step::LosesAnswers(server, share, lasts) => {
                self.begin_fault(Fault::LosesAnswers(server, share), lasts);
            }
            Step::LosesRequests(server, share, lasts) => {
                self.begin_fault(Fault::LosesRequests(server, share), lasts);
            }
            Step::Slow(server, most, lasts) => self.begin_fault(Fault::Slow(server, most), lasts),
            Step::Cut(service, which, side, lasts) => {
                if let Some(process) = self.one(service, which) {
                    self.begin_fault(Fault::Cut(process.host.id, side), lasts);
                }
            }
            Step::Crash(service, which) => {
                if let Some(process) = self.one(service, which) {
                    process.host.crash();
                    self.start_later(service);
                }
            }
            Step::Freeze(service, which, lasts) => {
                if let Some(process) = self.one(service, which) {
                    let left = self.plan.quiet_from.saturating_sub(self.sim.now());
                    self.calm_since = self.sim.now() + lasts.min(left);
                    process.host.freeze(lasts.min(left));
                }
            }
            Step::Stop(service, which) => {
                if let Some(process) = self.one(service, which) {
                    process.stop();
                    self.start_later(service);
                }
            }
            Step::Start(service) => {
                if self.processes.running(service).len() < 5 {
                    self.processes.start(service);
                }
            }
            Step::Refuses(topic, partition, lasts) => {
                self.begin_fault(Fault::Refuses(topic.to_owned(), partition), lasts);
            }
            Step::RefusesAfterAppend(topic, partition, lasts) => {
                self.begin_fault(
                    Fault::RefusesAfterAppend(topic.to_owned(), partition),
                    lasts,
                );
            }
            Step::Stalls(topic, partition, lasts) => {
                self.begin_fault(Fault::Stalls(topic.to_owned(), partition), lasts);
            }
            Step::MovesLeader(topic, partition) => {
                let world = &mut *self.sim.world();
                let brokers = world.kafka.brokers;
                if let Ok(partition) = world.kafka.partition(topic, partition) {
                    partition.leader = world.random.random_range(0..brokers);
                }
            }
            Step::Throttles(ms, lasts) => self.begin_fault(Fault::Throttles(ms), lasts),
            Step::SlowReads(ms, lasts) => self.begin_fault(Fault::SlowReads(ms), lasts),
            Step::NotifyFails(lasts) => self.begin_fault(Fault::NotifyFails, lasts),
            Step::CreationRefused(lasts) => self.begin_fault(Fault::CreationRefused, lasts),
            Step::Grows(topic) => {
                let world = &mut *self.sim.world();
                if let Some(known) = world.kafka.topics.get(topic) {
                    let more = i32::try_from(known.partitions.len()).unwrap_or(0) + 1;
                    world.kafka.grow(topic, more);
                    world.oracle.grown(topic);
                }
            }
            Step::Deleted(topic) => {
                let world = &mut *self.sim.world();
                world.kafka.delete(topic);
                world.oracle.deleted(topic);
            }
            Step::Trims(topic) => {
                let world = &mut *self.sim.world();
                world.kafka.trim(topic, world.database.offsets());
            }
            Step::Command(command) => {
                let operator = self.operator.clone();
                tokio::spawn(async move { operator.run(command).await });
            }
        }
    }

    /// What ended is started again, as whoever runs services has it: at the latest by the end.
    fn start_later(&mut self, service: Service) {
        if self.processes.running(service).is_empty() || self.sim.chance() < 0.5 {
            self.processes.start(service);
        }
    }

    fn outcome(&self) -> Outcome {
        let world = self.sim.world();
        Outcome {
            violation: world.oracle.violation().cloned(),
            lasted: self.sim.now(),
            events: world.oracle.written(),
            duplicates: world.oracle.duplicates,
            fingerprint: world.log.fingerprint(),
            steps: self.taken.clone(),
        }
    }
}
