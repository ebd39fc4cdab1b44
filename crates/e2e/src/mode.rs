//! Where the check runs: in Docker Compose where an engine answers, else on this machine.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::process::Command;

/// An engine that does not answer in this time is none.
const ENGINE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Where the services run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As processes, beside a Postgres and a Kafka of `local-stack`.
    Native,
    /// As containers, as `docker-compose.yml` has them.
    Compose,
}

impl Mode {
    /// What `LOCAL_STACK` says, else what this machine can do.
    ///
    /// # Errors
    /// `LOCAL_STACK` says something else.
    pub(crate) async fn choose() -> Result<Self> {
        let wanted = std::env::var("LOCAL_STACK").unwrap_or_default();
        if let Some(mode) = parse(&wanted)? {
            return Ok(mode);
        }
        let engine = succeeds(&["compose", "version"]).await && succeeds(&["info"]).await;
        Ok(if engine { Self::Compose } else { Self::Native })
    }
}

fn parse(wanted: &str) -> Result<Option<Mode>> {
    match wanted {
        "" => Ok(None),
        "native" => Ok(Some(Mode::Native)),
        "compose" => Ok(Some(Mode::Compose)),
        other => bail!("LOCAL_STACK is {other:?}; it must be native or compose"),
    }
}

async fn succeeds(arguments: &[&str]) -> bool {
    let status = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let answered = tokio::time::timeout(ENGINE_ANSWERS_WITHIN, status).await;
    matches!(answered, Ok(Ok(status)) if status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_named_or_left_open() {
        assert_eq!(parse("").ok(), Some(None));
        assert_eq!(parse("native").ok(), Some(Some(Mode::Native)));
        assert_eq!(parse("compose").ok(), Some(Some(Mode::Compose)));
        assert!(parse("docker").is_err());
    }
}
