//! Which events of a batch the group has met: asked in the cheapest way that can be right.

use domain::EventId;
use storage::Connection;
use storage::inbox::{self, Stream};

use crate::apply::batch::{New, known_before};
use crate::apply::error::EffectError;

/// Whether events of a batch may be in the inbox already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dedup {
    /// If there is one all the same, nothing is done.
    Optimistic,
    Thorough,
}

/// Records the batch's events in the inbox; returns the new ones.
pub(crate) async fn record(
    conn: &mut Connection,
    stream: &Stream,
    newest: &[(EventId, i64)],
    dedup: Dedup,
) -> Result<New, EffectError> {
    if dedup == Dedup::Optimistic {
        if inbox::record_unmet(conn, stream, newest).await? {
            return Ok(New::All);
        }
        return Err(EffectError::MetBefore);
    }
    let new = inbox::record(conn, stream, newest).await?;
    inbox::follow_copies(conn, stream, &known_before(newest, &new)).await?;
    Ok(New::These(new))
}
