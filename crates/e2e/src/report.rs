//! What the user sees: one line per step, with its time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::time::timeout;

/// A step that takes longer hangs: whatever it waits for has a shorter deadline of its own.
const STEP_LIMIT: Duration = Duration::from_mins(3);

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
        self.step_within(STEP_LIMIT, name, Box::pin(work)).await
    }

    /// As [`Report::step`], for one that may take another time.
    ///
    /// # Errors
    /// The step's own, which has been printed.
    pub(crate) async fn step_within(
        &mut self,
        limit: Duration,
        name: &str,
        work: impl Future<Output = Result<String>>,
    ) -> Result<()> {
        let begun = Instant::now();
        let outcome = timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(anyhow!("not done within {limit:?}")));
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
