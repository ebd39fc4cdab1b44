//! How a run ended, for people.

use std::fmt::Write as _;

use simulation::run::Outcome;

/// Prints a line. The reader may have seen enough.
pub fn say(line: &str) {
    let _ = service::output::print(&format!("{line}\n"));
}

/// For people.
pub fn describe(seed: u64, ended: &Outcome) -> String {
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
