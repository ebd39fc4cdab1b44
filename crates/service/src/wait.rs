//! Waiting at start-up for what a process depends on. It never stops and never ends the process:
//! what is missing may come, and until then `/readyz` says what it is.

use std::fmt::Display;

use tokio_util::sync::CancellationToken;

use crate::retry::RetryBounds;
use crate::{Check, RetryLoop};

/// Where [`until_ready`] says whether the wait is over.
pub trait ReportReadiness {
    /// It is.
    fn ready(&self);
    /// It is not, because of this.
    fn not_ready(&self, reason: &str);
}

impl ReportReadiness for Check {
    fn ready(&self) {
        Self::ready(self);
    }

    fn not_ready(&self, reason: &str) {
        self.set_not_ready(reason);
    }
}

/// Calls `probe` until it succeeds, marks `check` ready and returns what the probe returned; `None`
/// when `stop` is cancelled first.
///
/// Every failure becomes the reason of `check`; the first and then one a minute are logged, with
/// `what` is waited for. The probe must bring its own deadline.
///
/// Cancellation safe as far as `probe` is: on stop, or when this future is dropped, a running probe
/// is dropped.
pub async fn until_ready<T, E, F>(
    check: &impl ReportReadiness,
    stop: &CancellationToken,
    bounds: RetryBounds,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> Option<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut retry = RetryLoop::new(bounds);
    loop {
        let reason = match stop.run_until_cancelled(probe()).await? {
            Ok(value) => {
                check.ready();
                return Some(value);
            }
            // The alternate form shows the causes too, for errors that have it (`anyhow`).
            Err(error) => format!("{error:#}"),
        };
        check.not_ready(&reason);
        let pause = retry.wait_after(&reason, |reason| tracing::warn!(what, reason, "waiting"));
        stop.run_until_cancelled(pause).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Readiness;

    const BOUNDS: RetryBounds = RetryBounds {
        first: Duration::from_millis(1),
        longest: Duration::from_secs(5),
    };

    #[tokio::test(start_paused = true)]
    async fn it_retries_until_the_probe_succeeds_and_reports_why_it_waits() {
        let readiness = Readiness::new();
        let check = readiness.check("postgres");
        let mut attempts = 0;
        let value = until_ready(
            &check,
            &CancellationToken::new(),
            BOUNDS,
            "Postgres",
            || {
                attempts += 1;
                if attempts > 1 {
                    let reason = readiness.report().checks[0].reason.clone();
                    assert_eq!(reason.as_deref(), Some("connection refused"));
                }
                let result = if attempts == 20 {
                    Ok(attempts)
                } else {
                    Err("connection refused")
                };
                async move { result }
            },
        )
        .await;
        assert_eq!(value, Some(20));
        assert!(readiness.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait_between_probes_and_during_one() {
        let readiness = Readiness::new();
        let check = readiness.check("postgres");
        let stop = CancellationToken::new();
        let failing = until_ready(&check, &stop, BOUNDS, "Postgres", || async {
            Err::<(), _>("connection refused")
        });
        let hanging = until_ready(
            &check,
            &stop,
            BOUNDS,
            "Kafka",
            std::future::pending::<Result<(), String>>,
        );
        let stopper = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            stop.cancel();
        };
        let deadline = Duration::from_secs(70);
        let outcome =
            tokio::time::timeout(deadline, async { tokio::join!(failing, hanging, stopper) });
        assert_eq!(outcome.await.unwrap(), (None, None, ()));
        assert!(!readiness.is_ready());
    }
}
