//! How a run ended, for programs and for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use simulation::run::Outcome;

/// An [`Outcome`], as one process tells it another.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Ended {
    pub violation: Option<(Duration, String)>,
    pub lasted: Duration,
    pub events: usize,
    pub duplicates: u64,
    pub fingerprint: u64,
    pub steps: Vec<(usize, String)>,
}

impl From<&Outcome> for Ended {
    fn from(outcome: &Outcome) -> Self {
        Self {
            violation: outcome.violation.clone(),
            lasted: outcome.lasted,
            events: outcome.events,
            duplicates: outcome.duplicates,
            fingerprint: outcome.fingerprint,
            steps: outcome.steps.clone(),
        }
    }
}

/// One line of JSON.
pub fn line(outcome: &Outcome) -> String {
    serde_json::to_string(&Ended::from(outcome)).expect("numbers and text")
}

/// For people.
pub fn text(seed: u64, outcome: &Outcome) -> String {
    describe(seed, &Ended::from(outcome))
}

/// For people.
pub fn describe(seed: u64, ended: &Ended) -> String {
    let mut text = format!(
        "seed {seed}: {} events, {} copies, {:.1} s in the world, fingerprint {:016x}",
        ended.events,
        ended.duplicates,
        ended.lasted.as_secs_f64(),
        ended.fingerprint
    );
    for (number, step) in &ended.steps {
        let _ = write!(text, "\n  step {number} at {step}");
    }
    match &ended.violation {
        Some((at, what)) => {
            let _ = write!(text, "\nat {:.3} s: {what}", at.as_secs_f64());
        }
        None => text.push_str("\nall is well"),
    }
    text
}
