//! Which events of a batch the group has met: asked in the cheapest way that can be right.

use domain::EventId;
use storage::inbox::Stream;

use crate::apply::batch::{New, known_before};
use crate::apply::error::EffectError;
use crate::ports::Transaction;

/// Whether events of a batch may be in the inbox already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dedup {
    /// If there is one all the same, nothing is done.
    Optimistic,
    Thorough,
}

/// Records the batch's events in the inbox; returns the new ones.
pub(crate) async fn record(
    transaction: &mut dyn Transaction,
    stream: &Stream,
    newest: &[(EventId, i64)],
    dedup: Dedup,
) -> Result<New, EffectError> {
    if dedup == Dedup::Optimistic {
        if transaction.record_unmet(stream, newest).await? {
            return Ok(New::All);
        }
        return Err(EffectError::MetBefore);
    }
    let new = transaction.record(stream, newest).await?;
    let known = known_before(newest, &new);
    transaction.follow_copies(stream, &known).await?;
    Ok(New::These(new))
}
