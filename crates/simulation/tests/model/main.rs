//! The model of Postgres beside a real one: the same random operations of several sessions on both, with
//! transactions that interleave and wait for each other.
//!
//! `MODEL_SEED` runs one case again, and `MODEL_CASES` another number of them.

#![allow(clippy::unwrap_used)] // a test has nothing better to do with an error
#![allow(clippy::unit_arg)] // answers without content are compared too

mod answer;
mod contents;
mod generator;
mod interleavings;
mod on_model;
mod on_postgres;
mod operation;
mod postgres;
mod run;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use local_stack::testing::TestDatabase;
use rand::SeedableRng;
use rand::rngs::StdRng;
use simulation::database::Mutation;
use tokio::task::JoinSet;

use generator::Generator;
use operation::Operation;
use postgres::{Difference, PostgresRun};
use run::{ModelRun, SESSIONS, Step};

/// Cases that are the same each time. Each fault of [`Mutation`] shows in several of them.
const KEPT: Range<u64> = 0..50;
/// Cases with seeds of their own each time.
const CASES: u64 = 30;
const OPERATIONS: usize = 100;
/// Cases at once, each on a database of its own.
const WORKERS: u64 = 3;

/// What happened in a case, and what the tables had at its end.
struct Recorded {
    steps: Vec<Step>,
    contents: Vec<String>,
}

/// Runs one case on both.
async fn case(postgres: &mut PostgresRun, seed: u64) -> Result<Option<Recorded>, String> {
    let mut generator = Generator::new(StdRng::seed_from_u64(seed));
    let mut model = ModelRun::new(None);
    let mut steps = Vec::new();
    let mut beginning = generator.beginning().into_iter();
    postgres.clear().await;
    loop {
        let (session, operation) = match beginning.next() {
            Some(operation) => (0, operation),
            None if steps.len() < OPERATIONS => generator.next(&mut model),
            None => match last(&mut model) {
                Some(operation) => operation,
                None => break,
            },
        };
        let step = model.step(session, operation);
        steps.push(step);
        match postgres.follow(&steps[steps.len() - 1]).await {
            Ok(()) => {}
            Err(Difference::Inconclusive) => {
                postgres.reconnect().await;
                return Ok(None);
            }
            Err(Difference::Found(what)) => return Err(told(&steps, &what)),
        }
    }
    let contents = contents::of_model(&model.database);
    let real = postgres.contents().await;
    if contents != real {
        let missing: Vec<_> = real
            .iter()
            .filter(|line| !contents.contains(line))
            .collect();
        let surplus: Vec<_> = contents
            .iter()
            .filter(|line| !real.contains(line))
            .collect();
        let what = format!("only Postgres has {missing:#?}\nonly the model has {surplus:#?}");
        return Err(told(&steps, &what));
    }
    Ok(Some(Recorded { steps, contents }))
}

/// Ends what is open, one after the other; `None` when nothing is.
fn last(model: &mut ModelRun) -> Option<(usize, Operation)> {
    for session in 0..SESSIONS {
        if model.transaction(session).is_some() && !model.waits(session) {
            let end = if model.failed[session] || session % 2 == 0 {
                Operation::Rollback
            } else {
                Operation::Commit
            };
            return Some((session, end));
        }
    }
    let prepared = model.database.prepared().next()?.to_owned();
    let free = (0..SESSIONS).find(|session| !model.waits(*session))?;
    Some((free, Operation::RollbackPrepared(prepared)))
}

fn told(steps: &[Step], what: &str) -> String {
    let told = steps.iter().enumerate().map(|(nth, step)| {
        let Step {
            session,
            operation,
            outcome,
            resumed,
        } = step;
        format!("{nth}: session {session}: {operation:?}\n    {outcome:?}, resumed {resumed:?}\n")
    });
    told.collect::<String>() + what
}

/// Whether a model with a fault differs from what was recorded.
fn differs(recorded: &Recorded, mutation: Mutation) -> bool {
    let mut model = ModelRun::new(Some(mutation));
    for step in &recorded.steps {
        if model.waits(step.session) != (step.operation == Operation::Cancel) {
            return true;
        }
        if model.step(step.session, step.operation.clone()) != *step {
            return true;
        }
    }
    contents::of_model(&model.database) != recorded.contents
}

type Seeds = Arc<Mutex<dyn Iterator<Item = u64> + Send>>;

/// Cases with the seeds that are left.
async fn cases(test: TestDatabase, seeds: Seeds) -> Vec<Option<Recorded>> {
    let mut postgres = PostgresRun::connect(&test).await;
    let mut recorded = Vec::new();
    loop {
        let Some(seed) = seeds.lock().unwrap().next() else {
            return recorded;
        };
        match case(&mut postgres, seed).await {
            Ok(case) => recorded.push(case),
            Err(difference) => {
                // A database is not dropped while transactions are prepared in it.
                postgres.reconnect().await;
                panic!("{difference}\nrun it again with MODEL_SEED={seed}");
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_does_what_postgres_does_and_none_with_a_fault_does() {
    let seed = setting("MODEL_SEED");
    let kept = if seed.is_some() { 0..0 } else { KEPT };
    let count = setting("MODEL_CASES").unwrap_or(if seed.is_some() { 1 } else { CASES });
    let first = seed.unwrap_or_else(|| rand::random::<u64>() >> 16);
    println!("seeds {kept:?} and from {first} on");
    let seeds: Seeds = Arc::new(Mutex::new(kept.chain(first..first + count)));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(cases(TestDatabase::create().await, seeds.clone()));
    }
    let mut recorded = Vec::new();
    while let Some(worker) = workers.join_next().await {
        recorded.extend(worker.unwrap());
    }
    let all = recorded.len();
    let recorded: Vec<Recorded> = recorded.into_iter().flatten().collect();
    println!("{} of {all} cases were conclusive", recorded.len());
    assert!(recorded.len() > all * 9 / 10, "too many say nothing");
    if seed.is_some() {
        return;
    }
    let mut found: BTreeMap<Mutation, usize> = BTreeMap::new();
    for mutation in Mutation::ALL {
        let cases = recorded.iter().filter(|case| differs(case, mutation));
        found.insert(mutation, cases.count());
    }
    println!("cases that tell a fault: {found:?}");
    let missed = found.iter().filter(|(_, cases)| **cases == 0);
    let missed: Vec<&Mutation> = missed.map(|(mutation, _)| mutation).collect();
    assert!(missed.is_empty(), "no case tells {missed:?}");
}
