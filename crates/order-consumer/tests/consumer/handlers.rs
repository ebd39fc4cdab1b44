//! Handlers for tests: one that remembers the order, and one that fails when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use domain::{OrderCreated, Received};
use futures::FutureExt;
use futures::future::BoxFuture;
use order_consumer::handlers::{Handler, HandlerError};
use storage::{Connection, StorageError, TransactionError};

pub(crate) const JOURNAL: &str =
    "create table journal (place bigserial, product_id text not null, event_id uuid primary key)";

/// Writes down every event; twice is an error that stands in the way for good.
pub(crate) struct Journal;

impl Handler<OrderCreated> for Journal {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        events: &'a [Received<&'a OrderCreated>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            let rows: Vec<String> = events
                .iter()
                .map(|e| format!("('{}', '{}')", e.event.product_id, e.event_id))
                .collect();
            let insert = "insert into journal (product_id, event_id) values ";
            conn.batch_execute(&format!("{insert}{}", rows.join(", ")))
                .await
                .map_err(|error| StorageError::from(error).into())
        }
        .boxed()
    }
}

/// Refuses events whose quantity is this, while the switch is on.
pub(crate) struct Refusing {
    pub(crate) quantity: i64,
    pub(crate) on: Arc<AtomicBool>,
}

impl Refusing {
    pub(crate) fn quantity(quantity: i64) -> Self {
        Self {
            quantity,
            on: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Handler<OrderCreated> for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }

    fn apply<'a>(
        &'a self,
        _: &'a mut Connection,
        events: &'a [Received<&'a OrderCreated>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            let bad = |e: &Received<&OrderCreated>| i64::from(e.event.quantity) == self.quantity;
            if self.on.load(Ordering::SeqCst) && events.iter().any(bad) {
                return Err(HandlerError::Refused("a bad quantity".to_owned()));
            }
            Ok(())
        }
        .boxed()
    }
}

/// Panics in a transaction of its own, whatever comes.
pub(crate) struct Panicking;

impl Handler<OrderCreated> for Panicking {
    fn name(&self) -> &'static str {
        "panicking"
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut Connection,
        _: &'a [Received<&'a OrderCreated>],
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        async move {
            let nested = async |_: &mut Connection| -> Result<(), TransactionError> {
                panic!("a bug of the handler")
            };
            conn.transaction(nested)
                .await
                .map_err(|error| StorageError::from(error).into())
        }
        .boxed()
    }
}
