//! The steps of the check. Each returns what it saw, in one line, or why it did not hold.

pub(crate) mod cancellations;
pub(crate) mod crashes;
pub(crate) mod duplicates;
pub(crate) mod flow;
pub(crate) mod poison;
pub(crate) mod progress;
pub(crate) mod refusals;
pub(crate) mod sharing;
pub(crate) mod shutdown;
