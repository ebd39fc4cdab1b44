//! Waiting for a condition: asked again and again, up to a deadline, and a failure says what was
//! seen last.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How long anything may take that takes no time when all is well. Long, since a busy machine is no
/// defect; what must be fast is measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(10);

/// What asking once gave.
pub(crate) enum Seen<T> {
    /// What was waited for.
    Done(T),
    /// What is there instead, in words.
    NotYet(String),
}

/// Asks until it is done.
///
/// # Errors
/// At the deadline, and at once when asking fails.
pub(crate) async fn eventually<T>(
    what: &str,
    probe: impl AsyncFnMut() -> Result<Seen<T>>,
) -> Result<T> {
    eventually_within(what, PATIENCE, PAUSE, probe).await
}

/// As [`eventually`], with another deadline and another pause between two questions.
///
/// # Errors
/// At the deadline, and at once when asking fails.
pub(crate) async fn eventually_within<T>(
    what: &str,
    deadline: Duration,
    pause: Duration,
    mut probe: impl AsyncFnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let give_up_at = Instant::now() + deadline;
    let mut last = "nothing".to_owned();
    loop {
        match timeout_at(give_up_at, probe()).await {
            Ok(Ok(Seen::Done(value))) => return Ok(value),
            Ok(Ok(Seen::NotYet(seen))) => last = seen,
            Ok(Err(error)) => return Err(error.context(format!("waiting for {what}"))),
            Err(_) => {
                bail!("waited {deadline:?} in vain for {what}; no answer, before that {last}")
            }
        }
        if Instant::now() + pause >= give_up_at {
            bail!("waited {deadline:?} in vain for {what}; seen last: {last}");
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        let done = eventually("three questions", async || {
            asked += 1;
            Ok(if asked == 3 {
                Seen::Done(asked)
            } else {
                Seen::NotYet(format!("{asked} questions"))
            })
        });
        assert_eq!(done.await.ok(), Some(3));
    }

    #[tokio::test]
    async fn a_deadline_says_what_was_seen_last() {
        let never = async || Ok(Seen::<()>::NotYet("2 of 3".to_owned()));
        let error = eventually_within("three", SHORT, PAUSE, never).await;
        let text = error.expect_err("it never holds").to_string();
        assert!(text.contains("three") && text.contains("2 of 3"), "{text}");
    }

    #[tokio::test]
    async fn a_question_without_an_answer_ends_at_the_deadline() {
        let mute = async || std::future::pending::<Result<Seen<()>>>().await;
        let error = eventually_within("an answer", SHORT, PAUSE, mute).await;
        assert!(error.is_err());
    }
}
