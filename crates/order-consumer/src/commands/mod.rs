//! The commands for an operator. Each ends with status 0 only if it did all it was asked to do.

pub(crate) mod dead_letters;
pub(crate) mod offsets;
pub(crate) mod status;

use std::process::ExitCode;

use messaging::Cluster;
use service::{Source, exit_code_for_settings};
use storage::{Connection, Session};

use crate::adapters::postgres::PostgresInbox;
use crate::handlers::registry;
use crate::registry::Registry;
use crate::settings::CommandSettings;

const NAME: &str = "order-consumer-command";

/// What every command works with.
pub(crate) struct Context {
    settings: CommandSettings,
    registry: Registry,
}

impl Context {
    async fn connect(&self) -> anyhow::Result<Connection> {
        let session = Session::long_running(NAME);
        Ok(self.settings.database.connect(&session).await?)
    }

    /// For transactions. Connects when first used.
    fn inbox(&self) -> PostgresInbox {
        let session = Session::long_running(NAME);
        PostgresInbox::new(self.settings.database.clone(), session)
    }

    /// The topics in `only`, or all consumed topics if it is empty.
    fn topics(&self, only: &[String]) -> anyhow::Result<Vec<String>> {
        let consumed = self.registry.topics();
        if let Some(unknown) = only.iter().find(|topic| !consumed.contains(topic)) {
            anyhow::bail!(
                "topic {unknown} is not consumed; consumed topics: {}",
                consumed.join(", ")
            );
        }
        let asked_for = |topic: &String| only.is_empty() || only.contains(topic);
        Ok(consumed.into_iter().filter(asked_for).collect())
    }

    fn group(&self) -> &str {
        &self.settings.group
    }

    fn cluster(&self) -> anyhow::Result<Cluster> {
        let brokers = self.settings.brokers.clone();
        let brokers = brokers.ok_or_else(|| {
            anyhow::anyhow!(
                "KAFKA_BROKERS is not set, expected host:port, several separated by commas"
            )
        })?;
        Ok(Cluster::new(brokers))
    }
}

/// Runs a command. Its answer goes to standard output, errors go to standard error.
pub(crate) fn run<F>(source: &Source, command: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let settings = match CommandSettings::read(source) {
        Ok(settings) => settings,
        Err(error) => return exit_code_for_settings(&error),
    };
    service::block_on(async {
        let context = Context {
            settings,
            registry: registry(),
        };
        command(context).await.unwrap_or_else(|error| {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        })
    })
}

/// A key as text, or as `base64:` and base64 if it is not text.
fn key_text(key: &[u8]) -> String {
    use base64::Engine;
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("base64:{}", base64::prelude::BASE64_STANDARD.encode(key)),
    }
}
