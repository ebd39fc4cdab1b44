//! What the user sees: one line per step, with its time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The steps done so far.
#[derive(Debug)]
pub(crate) struct Report {
    begun: Instant,
    steps: usize,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
        }
    }

    /// Does a step and prints its line: what the step says it saw, or why it failed.
    ///
    /// # Errors
    /// The step's own, which has been printed.
    pub(crate) async fn step(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<String>>,
    ) -> Result<()> {
        let begun = Instant::now();
        let outcome = work.await;
        let took = seconds(begun.elapsed());
        match outcome {
            Ok(seen) => {
                self.steps += 1;
                println!("✓ {took}  {seen}");
                Ok(())
            }
            Err(error) => {
                println!("✗ {took}  {name}: {error:#}");
                Err(error).with_context(|| name.to_owned())
            }
        }
    }

    /// How many steps held, and how long all of it took.
    pub(crate) fn total(&self) -> String {
        let mut text = format!("{} steps", self.steps);
        // Writing to a String cannot fail.
        let _ = write!(text, ", {}", seconds(self.begun.elapsed()).trim_start());
        text
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:5.2} s", duration.as_secs_f64())
}
