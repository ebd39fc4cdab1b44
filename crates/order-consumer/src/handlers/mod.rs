//! What happens because of an event. [`registered`] lists the effects; each is a file of its own.

mod product_sales;

use domain::{OrderCreated, Received};
use futures::future::BoxFuture;
use storage::{Connection, Fault, StorageError};

pub use product_sales::ProductSales;

/// The effects that every event has, in the order in which they are applied.
pub fn registered() -> Vec<Box<dyn Handler>> {
    vec![Box::new(ProductSales)]
}

/// An effect. Applied inside the batch's transaction, to events that were never applied before, in
/// the order of the partition.
pub trait Handler: Send + Sync + 'static {
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
        events: &'a [Received<OrderCreated>],
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
