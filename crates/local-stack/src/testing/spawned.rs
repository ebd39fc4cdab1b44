//! A real executable as a child process of a test.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use super::eventually;

/// A running process that sees the given variables and no others; killed with this value.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
    log: PathBuf,
}

impl Spawned {
    /// Starts `executable`. Its working directory is the temporary one, so that no `.env` is read;
    /// what it writes to standard output and error can be read with [`Spawned::log`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(
        executable: &str,
        arguments: &[&str],
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let log = std::env::temp_dir().join(format!("test-{}.log", Uuid::now_v7()));
        let output = File::create(&log).expect("a log file can be made");
        let child = Command::new(executable)
            .args(arguments)
            .env_clear()
            .envs(variables)
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{executable} cannot be started: {error}"));
        Self { child, log }
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends SIGKILL.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends SIGSTOP: the process stands still until [`Spawned::resume`].
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are positive 32-bit numbers");
        // One that has ended already is what the caller wanted or will find out.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// The most memory that was resident at any time so far, in bytes.
    ///
    /// # Panics
    /// When it has ended, or on a system that does not tell.
    pub fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).expect("the process runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        let kilobytes = kilobytes.expect("Linux tells the peak of resident memory in kB");
        kilobytes.parse::<u64>().expect("a number") * 1024
    }

    /// How many files and sockets it has open.
    ///
    /// # Panics
    /// When it has ended, or on a system that does not tell.
    pub fn open_files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        files.expect("Linux lists the files of a process").count()
    }

    /// Its exit status once it ends; `None` when a signal ended it.
    ///
    /// # Panics
    /// When it still runs at the deadline.
    pub async fn exit_code(&mut self, deadline: Duration) -> Option<i32> {
        let child = &mut self.child;
        let status: ExitStatus = eventually("the process to end", deadline, async || {
            child.try_wait().expect("a child can be waited for")
        })
        .await;
        status.code()
    }

    /// Where its ops endpoints are, from the line that says so.
    ///
    /// # Panics
    /// When it does not say so in time.
    pub async fn ops_address(&self, deadline: Duration) -> SocketAddr {
        eventually("the address of the ops endpoints", deadline, async || {
            self.log().lines().find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                let address: SocketAddr = line.get("ops")?.as_str()?.parse().ok()?;
                Some(SocketAddr::from(([127, 0, 0, 1], address.port())))
            })
        })
        .await
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
        // Reaps it; the log stays for whoever looks into a failure.
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}
