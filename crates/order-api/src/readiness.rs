//! Whether orders can be taken: asks Postgres every second, on a connection of the pool that
//! requests use, and reports it as the check "postgres". Never ends the process: what is missing
//! may come.

use std::time::Duration;

use service::{CancellationToken, Check, LogThrottle};
use tokio::time::Instant;

use crate::store::{Store, StoreError};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a look at Postgres found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It answers, has the schema and can be written to.
    Ready,
    /// It answers and lacks these migrations.
    SchemaIncomplete(Vec<String>),
    /// It answers and takes no order.
    ReadOnly,
    /// It does not answer, and why.
    Away(String),
}

impl Finding {
    /// Why orders cannot be taken; `None` when they can.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::SchemaIncomplete(missing) => Some(format!(
                "migrations are missing: {}; run order-api migrate",
                missing.join(", ")
            )),
            Self::ReadOnly => Some(
                "Postgres cannot be written to: it is a standby, or set to read only".to_owned(),
            ),
            Self::Away(reason) => Some(format!("waiting for Postgres: {reason}")),
        }
    }

    fn is_alike(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Looks until `stop` is cancelled.
pub async fn watch(store: Store, check: Check, stop: CancellationToken) {
    let mut last = Finding::Ready;
    let mut log_throttle = LogThrottle::default();
    let looking = async {
        loop {
            let was_ready = check.is_ready();
            let finding = step(&store, &check).await;
            if was_ready || !finding.is_alike(&last) {
                log_throttle.end();
            }
            if let Some(reason) = finding.reason()
                && log_throttle.is_due(Instant::now())
                // Said by the check, which logs its own changes.
                && !was_ready
            {
                tracing::warn!(reason, "orders are refused");
            }
            last = finding;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    stop.run_until_cancelled(looking).await;
}

/// Looks once and reports to `check`.
pub async fn step(store: &Store, check: &Check) -> Finding {
    let finding = match store.missing_migrations().await {
        Ok(missing) if missing.is_empty() => match store.is_read_only().await {
            Ok(false) => Finding::Ready,
            Ok(true) => Finding::ReadOnly,
            Err(error) => Finding::Away(error.to_string()),
        },
        Ok(missing) | Err(StoreError::SchemaIncomplete(missing)) => {
            Finding::SchemaIncomplete(missing)
        }
        Err(error) => Finding::Away(error.to_string()),
    };
    match finding.reason() {
        None => check.ready(),
        Some(reason) => check.not_ready(reason),
    }
    finding
}
