//! The real executable at work, with the settings a test gives and no others.

use std::net::SocketAddr;

use local_stack::testing::{Spawned, eventually};
use serde_json::Value;

use crate::helpers::DEADLINE;

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_order-api");

/// A running executable, killed with this value.
pub(crate) struct Process {
    pub(crate) spawned: Spawned,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Serves orders of this database.
    pub(crate) async fn serve(database_url: &str, further: &[(&'static str, &str)]) -> Self {
        Self::start(EXECUTABLE, &["serve"], database_url, further).await
    }

    /// The same, under these commands of a shell.
    pub(crate) async fn serve_under(
        commands: &str,
        database_url: &str,
        further: &[(&'static str, &str)],
    ) -> Self {
        let script = format!("{commands} && exec {EXECUTABLE} serve");
        Self::start("/bin/sh", &["-c", &script], database_url, further).await
    }

    async fn start(
        program: &str,
        arguments: &[&str],
        database_url: &str,
        further: &[(&'static str, &str)],
    ) -> Self {
        let given = [
            ("DATABASE_URL", database_url),
            ("PORT", "0"),
            ("OPS_PORT", "0"),
        ];
        let settings = given.iter().chain(further);
        let settings = settings.map(|(name, value)| (*name, (*value).to_owned()));
        let spawned = Spawned::start(program, arguments, settings);
        let address = eventually("the address", DEADLINE, async || {
            let lines = lines(&spawned.log());
            let line = lines.iter().find(|line| line["address"].is_string())?;
            let address: SocketAddr = line["address"].as_str()?.parse().ok()?;
            Some(SocketAddr::from(([127, 0, 0, 1], address.port())))
        })
        .await;
        Self { spawned, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it has logged.
    pub(crate) fn lines(&self) -> Vec<Value> {
        lines(&self.spawned.log())
    }

    /// The first line with this message.
    pub(crate) async fn line(&self, message: &str) -> Value {
        eventually(message, DEADLINE, async || {
            let lines = self.lines();
            lines.into_iter().find(|line| line["message"] == message)
        })
        .await
    }
}

/// The last line may be written at this moment.
fn lines(log: &str) -> Vec<Value> {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parsed = whole.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line {line}"))
    });
    parsed.collect()
}
