//! What a handler is: the effect of an event type.

use domain::{EventType, Received};
use futures::future::BoxFuture;
use storage::{Connection, Fault, StorageError};

/// An effect of events of type `E`. Applied inside the batch's transaction, to events that were never
/// applied before, in the order of the partition.
pub trait Handler<E: EventType>: Send + Sync + 'static {
    /// For logs and for the reasons of dead letters.
    fn name(&self) -> &'static str;

    /// Applies the events, all or none. It must do all it does through `conn`: what it does
    /// elsewhere is not undone when the transaction is. It may be called again with some of the
    /// same events after a failure, which undid what it had done.
    ///
    /// # Errors
    /// See [`HandlerError`]: what is to blame decides whether an event becomes a dead letter.
    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a E>],
    ) -> BoxFuture<'a, Result<(), HandlerError>>;
}

/// Why a handler did not apply its events.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// One of the events can never be applied.
    #[error("{0}")]
    Refused(String),
    /// A statement failed; whether an event is to blame, its [`Fault`] says.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl HandlerError {
    /// Whether an event is to blame, so that trying for ever would not help. `english` is whether
    /// Postgres' messages can be relied on; when they cannot, only what is certain is blamed.
    pub fn blames_an_event(&self, english: bool) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Storage(error) => match error.fault() {
                Fault::Statement => true,
                Fault::LikelyStatement => english,
                Fault::Trouble => false,
            },
        }
    }
}
