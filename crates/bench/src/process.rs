//! The project's executables, built with this program, as child processes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::seed::Bench;

/// A running service; killed with this value.
pub(crate) struct Service {
    child: Child,
    pub(crate) ops: String,
}

impl Service {
    /// Starts `name` on a database, with its ops endpoints on a free port.
    pub(crate) fn start(
        bench: &Bench,
        name: &str,
        database: &str,
        more: &[(&str, String)],
    ) -> Result<Self> {
        let executable: PathBuf = std::env::current_exe()?.with_file_name(name);
        let ops_port = free_port()?;
        let child = Command::new(&executable)
            .env("DATABASE_URL", bench.url(database))
            .env("KAFKA_BROKERS", &bench.stack.kafka_brokers)
            .env("OPS_PORT", ops_port.to_string())
            .env("RUST_LOG", "warn")
            .envs(more.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", executable.display()))?;
        Ok(Self {
            child,
            ops: format!("http://127.0.0.1:{ops_port}"),
        })
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = reqwest::get(format!("{}/readyz", self.ops)).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} is not ready", self.ops);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn status(&self, field: &str) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The largest resident size so far.
    pub(crate) fn peak_megabytes(&self) -> f64 {
        self.status("VmHWM:")
            .map_or(f64::NAN, |kilobytes| kilobytes / 1_024.0)
    }

    /// User and system time so far; the kernel counts in hundredths of a second.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>()
            / 100.0
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that ended by itself is reaped all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
