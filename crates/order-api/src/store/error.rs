//! How the store fails towards its callers.

use std::sync::Arc;
use std::time::Duration;

use storage::StorageError;

/// Why the store could not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Every connection, or writer, was busy for as long as this. Nothing was done.
    #[error("no connection or writer was free within {0:?}")]
    Busy(Duration),
    /// Postgres is away, not answering, or not to be written to. Nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// These migrations are missing. Nothing was done.
    #[error("migrations are missing: {}", .0.join(", "))]
    SchemaIncomplete(Vec<String>),
    /// The change may or may not have been stored: the answer to its commit is missing.
    #[error("the outcome of the commit is unknown: {reason}")]
    OutcomeUnknown { reason: String },
    /// The statement itself was at fault. Nothing was done.
    #[error("{0}")]
    Failed(Arc<StorageError>),
    /// Another request with this key is in progress. Nothing was done.
    #[error("the key is in use")]
    KeyInFlight,
    /// The key was used for another request. Nothing was done.
    #[error("the key was used for another request")]
    KeyReused,
    /// The work died, or the main runtime is stuck.
    #[error("the task gave no answer")]
    NoAnswer,
}

impl StoreError {
    /// Of work that ends with a commit: it may have died, or be stuck, during that.
    pub(super) fn uncertain(self) -> Self {
        match self {
            Self::NoAnswer => Self::OutcomeUnknown {
                reason: self.to_string(),
            },
            certain => certain,
        }
    }
}
