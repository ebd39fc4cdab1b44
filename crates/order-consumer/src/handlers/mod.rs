//! What happens because of an event. [`registry`] lists event types and their handlers; each handler
//! is a file of its own.

mod cancelled_sales;
mod event;
mod handler;
mod product_sales;

use domain::{OrderCancelled, OrderCreated};

pub use cancelled_sales::CancelledSales;
pub use event::Event;
pub(crate) use event::{ApplyAll, Value, apply};
pub use handler::{Handler, HandlerError};
pub use product_sales::ProductSales;

use crate::registry::Registry;

/// The event types that are consumed, with the handlers of each in the order in which they are
/// applied.
pub fn registry() -> Registry {
    Registry::default()
        .register::<OrderCreated>(vec![Box::new(ProductSales)])
        .register::<OrderCancelled>(vec![Box::new(CancelledSales)])
}
