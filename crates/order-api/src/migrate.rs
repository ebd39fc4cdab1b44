//! The command `migrate`: brings the schema up to date and says what it did. Made for a one-shot
//! container that starts together with Postgres, so it waits for it, but not for ever.

use std::process::ExitCode;
use std::time::Duration;

use service::Backoff;
use service::retry::bounds;
use storage::migrations::{MigrationError, migrate};
use storage::{Database, StorageError};
use tokio::time::Instant;

use crate::settings::MigrateSettings;

/// How long Postgres may take to come up.
const PATIENCE: Duration = Duration::from_mins(1);

/// Migrates, prints the result, and returns the exit status.
pub async fn run(settings: MigrateSettings) -> ExitCode {
    match migrate_within(&settings.database, PATIENCE).await {
        Ok(applied) if applied.is_empty() => {
            println!("the schema is up to date");
            ExitCode::SUCCESS
        }
        Ok(applied) => {
            println!("applied {}", applied.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("migration failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Applies what is missing and returns it; tries again for as long as `patience` while no
/// connection can be made, unless Postgres refuses the user, the password or the database.
///
/// # Errors
/// The last attempt's. Every other failure than that of connecting is final at once.
pub async fn migrate_within(
    database: &Database,
    patience: Duration,
) -> Result<Vec<String>, MigrationError> {
    let give_up_at = Instant::now() + patience;
    let mut backoff = Backoff::new(bounds::START);
    let mut announced = false;
    loop {
        let reason = match migrate(database).await {
            Err(MigrationError::Storage(
                error @ (StorageError::Connect { lasting: false, .. } | StorageError::Deadline(_)),
            )) => error,
            outcome => return outcome,
        };
        let delay = backoff.next_delay();
        if Instant::now() + delay >= give_up_at {
            return Err(reason.into());
        }
        if !announced {
            announced = true;
            let seconds = patience.as_secs();
            tracing::warn!(%reason, seconds, "waiting for Postgres");
        }
        tokio::time::sleep(delay).await;
    }
}
