//! Why events were not applied.

use storage::{StorageError, TransactionError};

use crate::handlers::HandlerError;

/// Why events were not applied.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An event was applied before, which was not looked for; the transaction is broken.
    #[error("an event of the batch is in the inbox already")]
    MetBefore,
    /// Another record is held at this offset and nobody has decided on it: the topic was made anew.
    #[error(
        "another record is held as a dead letter of offset {0} and not settled: the topic was made \
         anew; discard that one first"
    )]
    PlaceTaken(i64),
    /// `handler` did not apply them.
    #[error("{handler}: {source}")]
    Handler {
        handler: &'static str,
        source: HandlerError,
    },
}

impl From<TransactionError> for EffectError {
    fn from(error: TransactionError) -> Self {
        Self::Storage(error.into())
    }
}

impl EffectError {
    /// See [`HandlerError::blames_an_event`].
    pub fn blames_an_event(&self, english: bool) -> bool {
        match self {
            Self::Storage(_) | Self::MetBefore | Self::PlaceTaken(_) => false,
            Self::Handler { source, .. } => source.blames_an_event(english),
        }
    }
}
