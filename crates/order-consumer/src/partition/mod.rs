//! One owned partition, under one epoch: fetch, decode, apply, next.
//!
//! [`consumer`] is the loop. It has the next batch fetched ahead ([`prefetch`]), keeps the one in hand
//! until it is applied ([`pending_batch`]), and makes sure that the partition is the one it was
//! ([`position`]). How far it is goes to [`progress`]; what it did, to [`observe`].

mod consumer;
mod context;
mod observe;
mod pending_batch;
mod position;
mod prefetch;
pub(crate) mod progress;
mod step;

pub use consumer::PartitionConsumer;
pub use context::PartitionContext;
pub use progress::TopicProgress;
pub use step::{PositionError, Step, StepError};
