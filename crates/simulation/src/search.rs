//! Many seeds: several processes at once, a summary, and a failure made small.

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use simulation::run::Outcome;

use crate::report::{describe, say};
use crate::{SearchArgs, WorldArgs};

/// Seeds that found something, one in a line, with what it was.
const KEPT: &str = include_str!("../kept-seeds.txt");
/// A seed takes a fraction of a second. One that takes so long hangs: time does not pass in it.
const DEADLINE: Duration = Duration::from_mins(2);
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// A seed that failed.
struct Failure {
    seed: u64,
    ended: Result<Outcome, String>,
}

/// What is known of all seeds so far.
#[derive(Default)]
struct Sum {
    seeds: AtomicU64,
    world_ms: AtomicU64,
    events: AtomicU64,
    copies: AtomicU64,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

/// Searches until a seed fails or the time is over.
pub fn search(args: &SearchArgs) -> ExitCode {
    let first = args.from.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap_or_default().as_secs() * 1_000_000
    });
    let until = args
        .seconds
        .map(|s| Instant::now() + Duration::from_secs(s));
    let last = args
        .seeds
        .map_or(u64::MAX, |seeds| first.saturating_add(seeds));
    let next = AtomicU64::new(first);
    let seeds = || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let time_is_left = until.is_none_or(|until| Instant::now() < until);
        (seed < last && time_is_left).then_some(seed)
    };
    run_all(&seeds, args.jobs.unwrap_or_else(cores), &args.world)
}

/// Runs all that were kept.
pub fn kept() -> ExitCode {
    let seeds = KEPT
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let seeds: Mutex<Vec<u64>> = Mutex::new(seeds.collect());
    let next = || {
        let mut seeds = seeds.lock().unwrap_or_else(PoisonError::into_inner);
        seeds.pop()
    };
    run_all(&next, cores(), &WorldArgs::default())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn run_all(next: &(dyn Fn() -> Option<u64> + Sync), jobs: usize, world: &WorldArgs) -> ExitCode {
    let (begun, sum) = (Instant::now(), Sum::default());
    let working = AtomicU64::new(jobs as u64);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !sum.failed.load(Ordering::Relaxed)
                    && let Some(seed) = next()
                {
                    run_one(seed, world, &sum);
                }
                working.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut told = Instant::now();
        while working.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                say(&summary(&sum, begun));
            }
        }
    });
    say(&summary(&sum, begun));
    let failure = sum.failure.lock().unwrap_or_else(PoisonError::into_inner);
    match &*failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            tell(failure, world);
            ExitCode::FAILURE
        }
    }
}

fn run_one(seed: u64, world: &WorldArgs, sum: &Sum) {
    let ended = one(seed, world);
    sum.seeds.fetch_add(1, Ordering::Relaxed);
    if let Ok(ended) = &ended {
        let ms = u64::try_from(ended.lasted.as_millis()).unwrap_or(u64::MAX);
        sum.world_ms.fetch_add(ms, Ordering::Relaxed);
        sum.events.fetch_add(ended.events as u64, Ordering::Relaxed);
        sum.copies.fetch_add(ended.duplicates, Ordering::Relaxed);
        if ended.violation.is_none() {
            return;
        }
    }
    sum.failed.store(true, Ordering::Relaxed);
    let mut failure = sum.failure.lock().unwrap_or_else(PoisonError::into_inner);
    failure.get_or_insert(Failure { seed, ended });
}

fn summary(sum: &Sum, begun: Instant) -> String {
    let seeds = sum.seeds.load(Ordering::Relaxed);
    let world = Duration::from_millis(sum.world_ms.load(Ordering::Relaxed));
    let seconds = begun.elapsed().as_secs_f64();
    // Seeds are few enough for that.
    #[allow(clippy::cast_precision_loss)]
    let rate = seeds as f64 / seconds;
    format!(
        "{seeds} seeds in {seconds:.0} s ({rate:.1}/s), {:.0} minutes in the world, {} events, {} \
         copies",
        world.as_secs_f64() / 60.0,
        sum.events.load(Ordering::Relaxed),
        sum.copies.load(Ordering::Relaxed),
    )
}

/// Runs a seed in a process of its own. `Err` is what it printed when it did not end in order.
fn one(seed: u64, world: &WorldArgs) -> Result<Outcome, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("one").arg(seed.to_string());
    if let Some(mutation) = &world.mutation {
        command.args(["--mutation", &format!("{mutation:?}")]);
    }
    if !world.without.is_empty() {
        let numbers: Vec<String> = world.without.iter().map(usize::to_string).collect();
        command.args(["--without", &numbers.join(",")]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| error.to_string())?;
    let output = within_deadline(child)?;
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said).map_err(|_| {
        let complained = String::from_utf8_lossy(&output.stderr);
        format!("it ended with {}: {said}{complained}", output.status)
    })
}

fn within_deadline(mut child: std::process::Child) -> Result<std::process::Output, String> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return child.wait_with_output().map_err(|error| error.to_string()),
            Ok(None) if begun.elapsed() < DEADLINE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it hangs: not done after {DEADLINE:?}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Leaves out of a failing seed whatever it fails without, one step after the other.
fn shrink(seed: u64, world: &WorldArgs, mut ended: Outcome) -> (WorldArgs, Outcome) {
    let mut world = world.clone();
    for (number, _) in ended.steps.clone() {
        let mut fewer = world.clone();
        fewer.without.push(number);
        if let Ok(still) = one(seed, &fewer)
            && still.violation.is_some()
        {
            (world, ended) = (fewer, still);
        }
    }
    (world, ended)
}

fn tell(failure: &Failure, world: &WorldArgs) {
    let seed = failure.seed;
    match &failure.ended {
        Err(how) => say(&format!("seed {seed} did not end: {how}")),
        Ok(ended) => {
            say(&describe(seed, ended));
            let (world, small) = shrink(seed, world, ended.clone());
            if !world.without.is_empty() {
                let without: Vec<String> = world.without.iter().map(usize::to_string).collect();
                say(&format!(
                    "the same, without what it fails without (--without {}):\n{}",
                    without.join(","),
                    describe(seed, &small)
                ));
            }
        }
    }
    say(&format!(
        "make simulate SEED={seed} shows everything that happens"
    ));
}
