//! The services' ports, answered by the world.

mod inbox;
mod leases;
mod outbox;
mod producer;
mod source;
mod statement;

pub use inbox::SimInboxes;
pub use outbox::SimOutbox;
pub use producer::SimProducer;
pub use source::SimSource;
pub use statement::{Session, statement};
