//! Why events were not applied.

use storage::{StorageError, TransactionError};

use crate::handlers::HandlerError;

/// Why events were not applied.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An event is already in the inbox, which the optimistic insert did not expect; the
    /// transaction has failed.
    #[error("an event of the batch is already in the inbox")]
    MetBefore,
    /// Another record at this offset is an unsettled dead letter: the topic was created again.
    #[error(
        "an unsettled dead letter has the position of offset {0}: the topic was created again; \
         redrive or discard that dead letter first"
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
