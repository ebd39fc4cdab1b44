//! An event of a registered type, and how events of any types are applied.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use domain::{EventType, Received};
use futures::FutureExt;
use futures::future::BoxFuture;
use storage::Connection;

use super::Handler;
use crate::apply::error::EffectError;

/// What an event says, of whichever type it is.
pub(crate) type Value = Arc<dyn Any + Send + Sync>;

/// An event of a registered type, with the handlers of that type.
#[derive(Clone)]
pub struct Event {
    name: &'static str,
    value: Value,
    handlers: Arc<dyn ApplyAll>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.name).finish()
    }
}

impl Event {
    /// An event of the type `name`; `handlers` are those of that type.
    pub(crate) fn new(name: &'static str, value: Value, handlers: Arc<dyn ApplyAll>) -> Self {
        Self {
            name,
            value,
            handlers,
        }
    }

    /// The event, if it is an `E`.
    pub fn get<E: EventType>(&self) -> Option<&E> {
        self.value.downcast_ref()
    }
}

/// Applies all events, in order, each by the handlers of its type. Neighbours of one type are applied
/// together.
///
/// # Errors
/// That of the first handler that fails.
pub(crate) async fn apply(
    conn: &mut Connection,
    events: &[Received<Event>],
) -> Result<(), EffectError> {
    let same_type = |a: &Received<Event>, b: &Received<Event>| a.event.name == b.event.name;
    for run in events.chunk_by(same_type) {
        run[0].event.handlers.apply(conn, run).await?;
    }
    Ok(())
}

/// All handlers of one event type, whichever it is.
pub(crate) trait ApplyAll: Send + Sync {
    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<Event>],
    ) -> BoxFuture<'a, Result<(), EffectError>>;
}

impl<E: EventType> ApplyAll for Vec<Box<dyn Handler<E>>> {
    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<Event>],
    ) -> BoxFuture<'a, Result<(), EffectError>> {
        async move {
            let typed = |event: &'a Event| event.get::<E>().expect("decoded by its own type");
            let events: Vec<Received<&E>> = events.iter().map(|event| event.map(typed)).collect();
            for handler in self {
                handler
                    .apply(conn, &events)
                    .await
                    .map_err(|source| EffectError::Handler {
                        handler: handler.name(),
                        source,
                    })?;
            }
            Ok(())
        }
        .boxed()
    }
}
