//! What no interleaving of the statements may do, on the model alone: there they can be stopped between
//! any two locks and changes.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use simulation::database::Mutation;

use crate::generator::Generator;
use crate::run::{ModelRun, SESSIONS};
use crate::{setting, told};

const OPERATIONS: usize = 150;

/// Runs a case and looks after each operation whether each event is in exactly one state, and none is
/// blocked by nothing.
fn case(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let pauses = StdRng::seed_from_u64(!seed);
    let mut model = ModelRun::new(mutation).with_pauses(pauses);
    let observer = model.database.connect();
    let mut generator = Generator::new(StdRng::seed_from_u64(seed));
    let mut beginning = generator.beginning().into_iter();
    let mut steps = Vec::new();
    while steps.len() < OPERATIONS && (0..SESSIONS).any(|session| !model.waits(session)) {
        let first = (!model.waits(0)).then(|| beginning.next()).flatten();
        let (session, operation) = first.map_or_else(|| generator.next(&mut model), |o| (0, o));
        steps.push(model.step(session, operation));
        let mut connection = model.database.on(observer, Duration::ZERO);
        let offenders = connection.verify().unwrap().offenders;
        if !offenders.is_empty() {
            return Err(told(&steps, &format!("seed {seed}: {offenders:?}")));
        }
    }
    Ok(())
}

#[test]
fn no_interleaving_loses_an_event_or_blocks_one_by_nothing() {
    let first = setting("MODEL_SEED").unwrap_or(0);
    for seed in first..first + setting("MODEL_CASES").unwrap_or(400) {
        case(seed, None).unwrap_or_else(|found| panic!("{found}"));
    }
}

#[test]
fn one_is_found_where_a_statement_lacks_something() {
    for mutation in [
        Mutation::NoKeyLocks,
        Mutation::HoldBlockedWithoutRecheck,
        Mutation::DiscardReturnsNothing,
        Mutation::RetentionDeletesUnpublished,
    ] {
        let found = (0..20_000).find(|seed| case(*seed, Some(mutation)).is_err());
        println!("{mutation:?}: seed {found:?}");
        assert!(found.is_some(), "{mutation:?} is not found");
    }
}
