//! A service as a process of this machine, its log in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;

use crate::deployment::{Service, settings};
use crate::eventually::{Seen, eventually};

/// Where the binary of a service lies: next to this program.
pub(crate) fn binary(service: Service) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where this program lies")?;
    let path = own.with_file_name(service.name());
    if !path.is_file() {
        bail!("{} is missing; build the workspace first", path.display());
    }
    Ok(path)
}

/// A running instance. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) name: String,
    pub(crate) log: PathBuf,
    process: tokio::process::Child,
}

impl Child {
    /// Starts it with the check's settings and this environment; its log goes to a new file.
    pub(crate) fn start(
        service: Service,
        name: String,
        folder: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let process = command(service, folder, environment)?
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {service}"))?;
        Ok(Self { name, log, process })
    }

    /// A line of the log with this field; the field's value.
    pub(crate) async fn logged(&mut self, field: &str) -> Result<String> {
        let what = format!("{} to log its {field}", self.name);
        eventually(&what, async || {
            if let Some(status) = self.process.try_wait()? {
                bail!("{} ended: {status}", self.name);
            }
            let text = std::fs::read_to_string(&self.log)?;
            let value = text.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                line[field].as_str().map(str::to_owned)
            });
            Ok(value.map_or_else(|| Seen::NotYet("no such line".to_owned()), Seen::Done))
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.process.id().context("it has ended already")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// How it ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.process.wait().await?)
    }
}

/// A command that sees the check's settings and this environment, nothing else, and no `.env` of
/// the workspace.
pub(crate) fn command(
    service: Service,
    folder: &Path,
    environment: &[(&str, &str)],
) -> Result<Command> {
    let mut command = Command::new(binary(service)?);
    command
        .current_dir(folder)
        .env_clear()
        .envs(settings())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        // A group of its own: an interrupt at the terminal is for this program, which passes on
        // what it wants.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}
