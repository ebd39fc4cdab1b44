//! The running tasks of a process, and what the end of one means while it runs and while it stops.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::signals::{Signal, Signals};

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// The tasks that have not ended yet, by name. Dropping it aborts them.
pub(crate) struct Tasks {
    running: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
}

/// A task that has ended.
struct Ended {
    name: &'static str,
    how: Result<(), Failure>,
}

/// Why a task did not end well.
enum Failure {
    Returned(BoxError),
    Died(JoinError),
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Stopped as asked, every task ended without an error.
    Clean,
    /// A task ended early, failed, or did not end in time.
    Failed,
    /// A second signal would not wait.
    Forced(Signal),
}

impl Ending {
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Ending::Clean => ExitCode::SUCCESS,
            Ending::Failed => ExitCode::FAILURE,
            Ending::Forced(signal) => signal.exit_code(),
        }
    }
}

impl Tasks {
    pub(crate) fn start(works: Vec<(&'static str, Work)>) -> Tasks {
        let mut running = JoinSet::new();
        let names = works
            .into_iter()
            .map(|(name, work)| (running.spawn(work).id(), name))
            .collect();
        Tasks { running, names }
    }

    /// Waits until the process is to stop: a signal, the token, or a task that ends although nobody
    /// asked. The caller stops the tasks.
    pub(crate) async fn run(&mut self, signals: &mut Signals, stop: &CancellationToken) -> Ending {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal = signal.name(), "stop signal, stopping");
                Ending::Clean
            }
            () = stop.cancelled() => Ending::Clean,
            Some(ended) = self.next() => ended.judge(stop.is_cancelled()),
        }
    }

    /// Waits for the tasks that are left, at most `grace`.
    pub(crate) async fn finish(
        &mut self,
        signals: &mut Signals,
        grace: Duration,
        so_far: Ending,
    ) -> Ending {
        let mut ending = so_far;
        let deadline = tokio::time::sleep(grace);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                signal = signals.next() => {
                    tracing::warn!(
                        signal = signal.name(),
                        tasks = self.names(),
                        "second stop signal, exiting at once"
                    );
                    return Ending::Forced(signal);
                }
                ended = self.next() => match ended {
                    None => return ending,
                    Some(ended) => {
                        if ended.judge(true) == Ending::Failed {
                            ending = Ending::Failed;
                        }
                    }
                },
                () = &mut deadline => {
                    tracing::error!(
                        tasks = self.names(),
                        grace_seconds = grace.as_secs_f64(),
                        "tasks did not end in time"
                    );
                    return Ending::Failed;
                }
            }
        }
    }

    /// The next task to end; `None` when none is left. Cancellation safe.
    async fn next(&mut self) -> Option<Ended> {
        let (id, how) = match self.running.join_next_with_id().await? {
            Ok((id, result)) => (id, result.map_err(Failure::Returned)),
            Err(error) => (error.id(), Err(Failure::Died(error))),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        Some(Ended { name, how })
    }

    /// The tasks that run, for a log line.
    fn names(&self) -> String {
        let mut names: Vec<_> = self.names.values().copied().collect();
        names.sort_unstable();
        names.join(", ")
    }
}

impl Ended {
    /// Logs the end and says what it makes of the process.
    fn judge(self, stopping: bool) -> Ending {
        let task = self.name;
        match (self.how, stopping) {
            (Ok(()), true) => {
                tracing::debug!(task, "task ended");
                Ending::Clean
            }
            (Ok(()), false) => {
                tracing::error!(task, "task ended unexpectedly, stopping");
                Ending::Failed
            }
            (Err(failure), true) => {
                tracing::error!(
                    task,
                    error = failure.describe(),
                    "task failed while stopping"
                );
                Ending::Failed
            }
            (Err(failure), false) => {
                tracing::error!(task, error = failure.describe(), "task failed, stopping");
                Ending::Failed
            }
        }
    }
}

impl Failure {
    fn describe(self) -> String {
        match self {
            Failure::Returned(error) => describe(error.as_ref()),
            Failure::Died(error) => match error.try_into_panic() {
                Ok(payload) => {
                    let message = payload
                        .downcast_ref::<&str>()
                        .map(|text| (*text).to_owned())
                        .or_else(|| payload.downcast_ref::<String>().cloned());
                    format!("panic: {}", message.as_deref().unwrap_or("not a text"))
                }
                Err(cancelled) => cancelled.to_string(),
            },
        }
    }
}

/// An error and its causes on one line. A cause that its error quotes already is not repeated.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_named_once_each() {
        let layer = |text, source| Layer { text, source };
        let cause = layer("refused", None);
        let quoting = layer("connect: refused", Some(Box::new(cause)));
        let outer = layer("no pool", Some(Box::new(quoting)));
        assert_eq!(describe(&outer), "no pool: connect: refused");
    }
}
