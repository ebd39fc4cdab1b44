//! Torture: everything runs as in production, with standbys and several of each, while one thing
//! after the other goes wrong. At the end it is checked that none of it was seen from outside.

mod checkers;
mod clients;
mod disk;
mod drain;
mod fault;
mod leaders;
mod ledger;
mod plan;
mod proxy;
mod random;
mod report;
mod rows;
mod servers;
mod services;
mod stalls;
mod verify;
mod world;
mod writers;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use crate::check::interrupted;
use crate::torture::clients::Client;
use crate::torture::fault::WRITERS;
use crate::torture::ledger::{Ledger, Progress};
use crate::torture::plan::Plan;
use crate::torture::random::Random;
use crate::torture::report::Report;
use crate::torture::stalls::Waits;
use crate::torture::world::{World, say};
use crate::torture::writers::Writer;

const CLIENTS: usize = 8;
/// Time without faults at the begin and at the end.
const CALM: Duration = Duration::from_secs(5);
/// For clients that want to know, and the API is there.
const CLIENTS_END_WITHIN: Duration = Duration::from_mins(2);
/// P11: how long an event waits at most while nothing is wrong.
const CALM_WAIT: Duration = Duration::from_mins(1);

/// How long, and which faults.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Arguments {
    /// How long faults go on
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Chooses the faults and their order; any if it is left out
    #[arg(long)]
    seed: Option<u64>,
}

/// Succeeds only where nothing was violated.
pub(crate) async fn main(arguments: Arguments) -> ExitCode {
    // The last bits of an id are random.
    let (_, random) = Uuid::now_v7().as_u64_pair();
    let seed = arguments.seed.unwrap_or(random % 1_000_000);
    let name = format!("transactional-outbox-torture-{}", Uuid::now_v7().simple());
    let folder = std::env::temp_dir().join(name);
    println!(
        "Torture for {} min with seed {seed}: three brokers, a primary and a synchronous standby, \
         two order-api, three outbox-relay, three order-consumer, {CLIENTS} clients, {WRITERS} \
         writers. Times are UTC.",
        arguments.minutes
    );
    let outcome = tokio::select! {
        outcome = Box::pin(run(&folder, arguments.minutes, seed)) => Some(outcome),
        signal = interrupted() => {
            eprintln!("{signal}: ending what was started");
            None
        }
    };
    let violations = match outcome {
        // As a shell tells of a program that an interrupt ended.
        None => {
            remove(&folder);
            return ExitCode::from(130);
        }
        Some(Ok(violations)) => violations,
        Some(Err(error)) => vec![format!("{error:#}")],
    };
    if violations.is_empty() {
        println!("All held; seed {seed}.");
        remove(&folder);
        return ExitCode::SUCCESS;
    }
    for violation in &violations {
        println!("VIOLATED: {violation}");
    }
    println!("The logs are in {}", folder.display());
    println!(
        "The same faults again: make torture MINUTES={} SEED={seed}",
        arguments.minutes
    );
    ExitCode::FAILURE
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        eprintln!("{} stays: {error}", folder.display());
    }
}

/// From start to end; returns what was violated.
async fn run(folder: &Path, minutes: u32, seed: u64) -> Result<Vec<String>> {
    std::fs::create_dir_all(folder)?;
    let mut world = World::start(folder).await?;
    let violations = torture(&mut world, folder, minutes, seed).await;
    if !violations.as_ref().is_ok_and(Vec::is_empty) {
        world.keep_logs(folder);
    }
    violations
}

async fn torture(world: &mut World, folder: &Path, minutes: u32, seed: u64) -> Result<Vec<String>> {
    drain::drain(world).await.context("at the begin")?;
    say(OffsetDateTime::now_utc(), "all are ready");
    let progress = Arc::<Progress>::default();
    let load = start_load(world, seed, &progress)?;
    tokio::time::sleep(CALM).await;
    let end = Instant::now() + Duration::from_mins(minutes.into());
    let mut plan = Plan::new(seed);
    while Instant::now() < end {
        world.go_through(plan.next()).await?;
        let (orders, events) = progress.counts();
        say(
            OffsetDateTime::now_utc(),
            &format!("so far {orders} orders, {events} events of writers"),
        );
    }
    tokio::time::sleep(CALM).await;
    progress.stop();
    let ledger = timeout(CLIENTS_END_WITHIN, end_load(load)).await;
    let ledger = ledger.context("clients do not end")??;
    say(OffsetDateTime::now_utc(), "the load has ended");
    judge(world, folder, &ledger).await
}

/// Waits until all is done, checks and reports.
async fn judge(world: &mut World, folder: &Path, ledger: &Ledger) -> Result<Vec<String>> {
    let drained = drain::drain(world).await;
    let resent = world.services.resent().await;
    let sql = servers::connect(world.postgres.port()).await?;
    let rows = rows::Rows::load(&sql).await?;
    let records = rows::records(&world.kafka.brokers()).await?;
    let findings = checkers::check(ledger, &rows, &records);
    let waits = Waits::load(&sql, &world.happened).await?;
    Report {
        ledger,
        rows: &rows,
        records: &records,
        findings: &findings,
        waits: &waits,
        resent,
        drained: drained.as_ref().ok().copied(),
    }
    .print();
    let mut violations = findings.violations;
    if waits.calm > CALM_WAIT {
        violations.push(format!(
            "an event waited for {:?} while nothing was wrong",
            waits.calm
        ));
    }
    let outcomes = [
        drained.map(|_| ()),
        verify::verify(world, folder).await,
        world.services.stop_all().await,
    ];
    let failures = outcomes.into_iter().filter_map(Result::err);
    violations.extend(failures.map(|error| format!("{error:#}")));
    let ended = world.services.ended_by_themselves().iter();
    violations.extend(ended.map(|ended| format!("a process ended by itself: {ended}")));
    Ok(violations)
}

fn start_load(world: &World, seed: u64, progress: &Arc<Progress>) -> Result<JoinSet<Ledger>> {
    let mut load = JoinSet::new();
    let mut streams = (1..).map(|stream| Random::new(seed, stream));
    let mut random = || streams.next().expect("there is no last one");
    for _ in 0..CLIENTS {
        load.spawn(Client::new(&world.services.apis(), random(), progress)?.run());
    }
    for number in 0..WRITERS {
        let port = world.writer_port(number);
        load.spawn(Writer::new(number, port, random(), progress).run());
    }
    Ok(load)
}

async fn end_load(mut load: JoinSet<Ledger>) -> Result<Ledger> {
    let mut all = Ledger::default();
    while let Some(ledger) = load.join_next().await {
        all.add(ledger?);
    }
    Ok(all)
}
